//! Batches as they lie on the wire.

use alloc::vec::Vec;
use core::iter;

use dma_types::{Iova, PAGE_SIZE};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::handle::Handle;
#[cfg(doc)]
use crate::protocol::call;
use crate::protocol::call::{
    BatchHeader, MAP_FLAG_AT, MAP_FLAG_BEHIND, MapEntry, Opcode, UnmapEntry,
};
use crate::protocol::{Error, MAX_BATCH};
use crate::resume::Piece;

/// A batch of one.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct One<Entry> {
    header: BatchHeader,
    pub(super) entry: Entry,
}

impl<Entry> One<Entry> {
    #[inline]
    pub(crate) fn new(flags: u32, entry: Entry) -> Self {
        Self { header: header(1, flags), entry }
    }
}

/// A batch of any length.
pub(crate) struct Batch<Entry> {
    /// The entries, behind one in whose place the header lies, at its end.
    entries: Vec<Entry>,
}

impl<Entry> Batch<Entry>
where
    Entry: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
{
    /// Where the header lies in the first place.
    const HEADER: usize = size_of::<Entry>() - size_of::<BatchHeader>();

    /// One to which so many entries are to be put, with these flags in its header.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyBatch`], [`Error::BatchTooLarge`].
    #[inline]
    pub(crate) fn new(flags: u32, count: usize) -> Result<Self, Error> {
        match count {
            0 => return Err(Error::EmptyBatch),
            1..=MAX_BATCH => {}
            _ => return Err(Error::BatchTooLarge),
        }
        let mut entries = Vec::with_capacity(1 + count);
        let mut first = Entry::new_zeroed();
        first.as_mut_bytes()[Self::HEADER..].copy_from_slice(header(count, flags).as_bytes());
        entries.push(first);
        Ok(Self { entries })
    }

    /// Puts an entry behind the others.
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// The entries that there are; as iommud filled them in, when it has answered.
    #[inline]
    pub(crate) fn entries(&self) -> &[Entry] {
        self.entries.get(1..).unwrap_or_default()
    }
}

impl Batch<MapEntry> {
    /// One that asks for mappings of so many pieces, below this limit, which a device may use so: an
    /// [`access_code`](call::access_code) each.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    #[inline(never)]
    pub(crate) fn of_maps(
        flags: u32,
        (count, places): (usize, Places),
        limit: Iova,
        mut wanted: impl Iterator<Item = (Piece, u32)>,
    ) -> Result<Self, Error> {
        let mut batch = Self::new(flags, count)?;
        let [first, others] = places.of_entries();
        if let Some(wanted) = wanted.next() {
            batch.push(map_entry(wanted, limit, first));
        }
        for wanted in wanted {
            batch.push(map_entry(wanted, limit, others));
        }
        Ok(batch)
    }
}

/// In front of a batch of so many entries.
#[inline]
fn header(count: usize, flags: u32) -> BatchHeader {
    BatchHeader {
        count: U32::new(count as u32),
        failed: U32::ZERO,
        errno: U32::ZERO,
        flags: U32::new(flags),
    }
}

/// The entry that asks for a mapping there of a piece, which a device may use so: an [`access_code`](call::access_code).
#[inline]
pub(super) fn map_entry(
    (piece, access): (Piece, u32),
    limit: Iova,
    (flags, iova): (u32, u64),
) -> MapEntry {
    MapEntry {
        buffer: U64::new(piece.buffer),
        offset: U64::new(piece.offset),
        bytes: U64::new(piece.bytes),
        limit: U64::new(limit.get()),
        iova: U64::new(iova),
        access: U32::new(access),
        flags: U32::new(flags),
    }
}

/// The entry that ends the mapping of so many bytes there.
#[inline]
pub(crate) fn unmap_entry(iova: Iova, bytes: u64) -> UnmapEntry {
    UnmapEntry { iova: U64::new(iova.get()), bytes: U64::new(bytes) }
}

/// Where the pieces of a batch are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// Each wherever there is room.
    Anywhere,
    /// One behind the other, wherever there is room for all.
    Together,
    /// One behind the other, from this address on.
    From(Iova),
}

impl Places {
    /// What the flags and the address of a batch's entries say of this: of the first, and of each of the others.
    #[inline]
    pub(super) const fn of_entries(self) -> [(u32, u64); 2] {
        match self {
            Self::Anywhere => [(0, 0); 2],
            Self::Together => [(0, 0), (MAP_FLAG_BEHIND, 0)],
            Self::From(iova) => [(MAP_FLAG_AT, iova.get()), (MAP_FLAG_BEHIND, 0)],
        }
    }

    /// Whether pieces of these lengths were mapped as was asked for: the driver tells its device where they are. iommud may be
    /// anybody (rule R5).
    ///
    /// # Errors
    ///
    /// [`Error::BadValue`] if not.
    #[inline]
    pub(crate) fn check<'a>(
        self,
        answers: impl Iterator<Item = (&'a MapEntry, u64)>,
        limit: Iova,
    ) -> Result<(), Error> {
        match self {
            Self::Anywhere => is_each_within(answers, limit),
            Self::Together => is_chain(answers, None, limit),
            Self::From(iova) => is_chain(answers, Some(iova), limit),
        }
        .ok_or(Error::BadValue)
    }
}

/// Whether pieces lie below the limit, each somewhere.
#[inline]
fn is_each_within<'a>(
    mut answers: impl Iterator<Item = (&'a MapEntry, u64)>,
    limit: Iova,
) -> Option<()> {
    answers.try_for_each(|answer| is_chain(iter::once(answer), None, limit))
}

/// Whether pieces lie below the limit, the first there, if that was said, and each of the others behind the one before.
#[inline]
fn is_chain<'a>(
    answers: impl Iterator<Item = (&'a MapEntry, u64)>,
    start: Option<Iova>,
    limit: Iova,
) -> Option<()> {
    let mut next = start.map(Iova::get);
    for (answer, bytes) in answers {
        let iova = answer.iova.get();
        let is_next = next.map_or(iova.is_multiple_of(PAGE_SIZE), |next| next == iova);
        if !is_next || answer.bytes.get() != bytes {
            return None;
        }
        next = Some(iova.checked_add(bytes)?);
    }
    (next?.checked_sub(1)? <= limit.get()).then_some(())
}

impl Handle {
    /// Sends a batch, which is then as iommud filled it in.
    ///
    /// # Errors
    ///
    /// What iommud refused it with, [`Error::ShortPayload`] for an answer that is not as long.
    #[inline]
    fn ask(&self, opcode: Opcode, payload: &mut [u8]) -> Result<(), Error> {
        let length = self.call_once(opcode, payload)?;
        let header = BatchHeader::ref_from_prefix(payload);
        let (header, _) = header.map_err(|_| Error::ShortPayload)?;
        match header.errno.get() {
            0 if length == payload.len() => Ok(()),
            errno if errno != 0 && length >= size_of::<BatchHeader>() => {
                Err(Error::from_errno(errno as u16))
            }
            _ => Err(Error::ShortPayload),
        }
    }

    /// The same of a batch of one.
    #[inline]
    pub(crate) fn ask_one<Entry>(&self, opcode: Opcode, one: &mut One<Entry>) -> Result<(), Error>
    where
        Entry: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
    {
        self.ask(opcode, one.as_mut_bytes())
    }

    /// The same of a batch of any length.
    #[inline]
    pub(crate) fn ask_all<Entry>(
        &self,
        opcode: Opcode,
        batch: &mut Batch<Entry>,
    ) -> Result<(), Error>
    where
        Entry: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
    {
        self.ask(opcode, &mut batch.entries.as_mut_bytes()[Batch::<Entry>::HEADER..])
    }
}
