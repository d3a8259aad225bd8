//! From one entry of a list to the next, by lengths that are checked.

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// What is wrong with the length of an entry in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LengthFault {
    /// What holds it ends before its own length could be read.
    #[error("is cut off after {left} bytes")]
    CutOff {
        /// How many bytes are left there.
        left: usize,
    },
    /// It is shorter than the fields that it must have; a length of zero is one such.
    #[error("says it has {length} bytes, and its fields alone take {least}")]
    TooShort {
        /// The length it gives.
        length: usize,
        /// The least it can be.
        least: usize,
    },
    /// It runs over the end of what holds it.
    #[error("says it has {length} bytes where {left} are left")]
    PastEnd {
        /// The length it gives.
        length: usize,
        /// How many bytes are left there.
        left: usize,
    },
}

/// What an entry of a list starts with: enough to tell where the next one starts.
pub(super) trait Head: FromBytes + KnownLayout + Immutable + Unaligned {
    /// What refuses a table with such an entry of wrong length.
    type Error;

    /// Bytes of the entry, its head included. `list` is all that is left of the list, from the head on.
    fn length(&self, list: &[u8]) -> usize;

    /// The error that a wrong length of such an entry is.
    fn error(offset: usize, fault: LengthFault) -> Self::Error;
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
    pub(super) fn next<H: Head>(&mut self) -> Result<Option<Entry<'a, H>>, H::Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (offset, left) = (self.offset, self.rest.len());
        let (head, _) = H::ref_from_prefix(self.rest)
            .map_err(|_| H::error(offset, LengthFault::CutOff { left }))?;
        let (length, least) = (head.length(self.rest), size_of::<H>());
        if length < least {
            return Err(H::error(offset, LengthFault::TooShort { length, least }));
        }
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| H::error(offset, LengthFault::PastEnd { length, left }))?;
        *self = Self { offset: offset + length, rest };
        Ok(Some(Entry { offset, head, bytes }))
    }
}

impl<'a, H: Head> Entry<'a, H> {
    /// The fields of an entry of this layout, its head among them, and the list of what follows them.
    pub(super) fn fields<T>(&self) -> Result<(&'a T, Entries<'a>), H::Error>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let least = size_of::<T>();
        let fault = LengthFault::TooShort { length: self.bytes.len(), least };
        let (fields, rest) =
            T::ref_from_prefix(self.bytes).map_err(|_| H::error(self.offset, fault))?;
        Ok((fields, Entries { offset: self.offset + least, rest }))
    }
}
