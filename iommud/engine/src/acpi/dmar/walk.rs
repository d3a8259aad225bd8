//! From one structure to the next, and from one scope to the next, by lengths that are checked.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::error::{DmarError, LengthFault};
use super::raw::{RawScope, RawStructure};

/// What an entry of a list starts with: enough to tell where the next one starts.
pub(super) trait Head: FromBytes + KnownLayout + Immutable + Unaligned {
    /// Bytes of the entry, its head included.
    fn length(&self) -> usize;

    /// The error that a wrong length of such an entry is.
    fn error(offset: usize, fault: LengthFault) -> DmarError;
}

impl Head for RawStructure {
    fn length(&self) -> usize {
        self.length.get().into()
    }

    fn error(offset: usize, fault: LengthFault) -> DmarError {
        DmarError::Structure { offset, fault }
    }
}

impl Head for RawScope {
    fn length(&self) -> usize {
        self.length.into()
    }

    fn error(offset: usize, fault: LengthFault) -> DmarError {
        DmarError::Scope { offset, fault }
    }
}

/// The part of a list that is yet to be walked.
pub(super) struct Entries<'a> {
    /// Where it starts, in bytes from the start of the table.
    pub(super) offset: usize,
    pub(super) rest: &'a [u8],
}

/// One entry, which lies within its list.
pub(super) struct Entry<'a, H> {
    /// Where it starts, in bytes from the start of the table.
    pub(super) offset: usize,
    pub(super) head: &'a H,
    /// All of it, its head included.
    pub(super) bytes: &'a [u8],
}

impl<'a> Entries<'a> {
    /// The next entry, or `None` at the end. Each takes at least its head away, so that a walk ends.
    pub(super) fn next<H: Head>(&mut self) -> Result<Option<Entry<'a, H>>, DmarError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (offset, left) = (self.offset, self.rest.len());
        let (head, _) = H::ref_from_prefix(self.rest)
            .map_err(|_| H::error(offset, LengthFault::CutOff { left }))?;
        let (length, least) = (head.length(), size_of::<H>());
        if length < least {
            return Err(H::error(offset, LengthFault::TooShort { length, least }));
        }
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(H::error(offset, LengthFault::PastEnd { length, left }))?;
        *self = Self { offset: offset + length, rest };
        Ok(Some(Entry { offset, head, bytes }))
    }
}

impl<'a> Entry<'a, RawStructure> {
    /// The fields of a structure of this layout, and the list of scopes after them.
    pub(super) fn fields<T>(&self) -> Result<(&'a T, Entries<'a>), DmarError>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let least = size_of::<T>();
        let fault = LengthFault::TooShort { length: self.bytes.len(), least };
        let (fields, rest) = T::ref_from_prefix(self.bytes)
            .map_err(|_| DmarError::Structure { offset: self.offset, fault })?;
        Ok((fields, Entries { offset: self.offset + least, rest }))
    }
}
