//! On whose account it is what operations take.
//!
//! The engine counts nobody's limits. It is told by a [`Purse`] on whose account an operation is and how many frames of
//! tables it may take, remembers with every table and every range of addresses who paid for it, and tells in
//! [`Turnover`]s what each payer has come to hold and has got back. What hardware has not confirmed yet is not back.
//!
//! A table is on the account of who mapped what it was made for, as long as there is anything in it: whoever else maps
//! something in the same table gets it for nothing. The one that a domain keeps although it is empty stays on its account until
//! it is [given up](crate::Engine::give_up_empty_tables), and so do those above it that have nothing else. That is done before an
//! account is said to have no room for another.
//! What nobody asked for, as what firmware reserves, nobody pays.

use alloc::vec::Vec;
use core::ops::Range;

use dma_types::PhysAddr;

use crate::domain::Domain;
use crate::error::EngineError;
use crate::platform::{TableFrame, TableFrames};
use crate::table::MapError;

/// Who pays: a number that means something to the caller alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Payer(pub u64);

impl Payer {
    /// Nobody: it is not counted.
    pub const NOBODY: Self = Self(0);
}

/// Who pays for an operation, and how much it may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purse {
    /// Who.
    pub payer: Payer,
    /// For whom, where several payers are one client: units do one thing at a time for each.
    pub client: Payer,
    /// How many frames of tables it may take.
    pub frames: u64,
}

impl Purse {
    /// Nobody pays, and there is no end to it.
    pub const NOBODY: Self = Self { payer: Payer::NOBODY, client: Payer::NOBODY, frames: u64::MAX };
}

/// What has come to a payer's account, or gone from it where it is negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// Frames of tables.
    pub frames: i64,
    /// Bytes of I/O addresses.
    pub iova_bytes: i64,
    /// Unmaps that units have not confirmed.
    pub operations: i64,
    /// Runs of memory that are free again. They come to an account without the engine.
    pub runs: i64,
    /// Their length in bytes.
    pub run_bytes: i64,
}

/// A change of this many bytes. Nothing is so long that it would not fit.
#[inline]
pub(crate) fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Who pays at the moment, and what nobody has been told of yet.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) purse: Purse,
    /// Bytes of addresses that have come to the payer of whom some came or went last, or gone from it: that is all there is of
    /// most operations.
    addresses: (Payer, i64),
    /// All else.
    turnovers: Vec<(Payer, Turnover)>,
}

impl Default for Books {
    fn default() -> Self {
        let (purse, addresses) = (Purse::NOBODY, (Payer::NOBODY, 0));
        Self { purse, addresses, turnovers: Vec::new() }
    }
}

impl Books {
    /// Frames for an operation of who pays at the moment, after it has taken so many.
    pub(crate) fn meter<'a, F>(&self, frames: &'a mut F, taken: usize) -> Metered<'a, F> {
        let left = self.purse.frames.saturating_sub(taken as u64);
        Metered { frames, left, bill: Bill { taken: Vec::new(), refused: false } }
    }

    /// Notes what a mapping of this length has taken for its domain of who pays at the moment, if it was made.
    pub(crate) fn paid<T>(
        &mut self,
        domain: &mut Domain,
        bill: Bill,
        bytes: u64,
        mapped: Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let mapped = mapped.map_err(|error| bill.error(error))?;
        if !bill.taken.is_empty() {
            self.take_tables(domain, &bill.taken);
        }
        self.note_addresses(self.purse.payer, self::bytes(bytes));
        Ok(mapped)
    }

    /// Notes the frames that a domain's table has taken of who pays at the moment.
    pub(crate) fn take_tables(&mut self, domain: &mut Domain, taken: &[PhysAddr]) {
        domain.pay(taken, self.purse.payer);
        let frames = self::bytes(taken.len() as u64);
        self.note(self.purse.payer, Turnover { frames, ..Turnover::default() });
    }

    /// Notes a change.
    pub(crate) fn note(&mut self, payer: Payer, change: Turnover) {
        if payer == Payer::NOBODY || change == Turnover::default() {
            return;
        }
        let sum = self.of(payer);
        sum.frames = sum.frames.saturating_add(change.frames);
        sum.iova_bytes = sum.iova_bytes.saturating_add(change.iova_bytes);
        sum.operations = sum.operations.saturating_add(change.operations);
        sum.runs = sum.runs.saturating_add(change.runs);
        sum.run_bytes = sum.run_bytes.saturating_add(change.run_bytes);
    }

    /// Notes that there are so many more unmaps that units have not confirmed.
    #[inline]
    pub(crate) fn note_operations(&mut self, payer: Payer, operations: i64) {
        if payer != Payer::NOBODY {
            let sum = self.of(payer);
            sum.operations = sum.operations.saturating_add(operations);
        }
    }

    /// What has changed for a payer.
    #[inline]
    fn of(&mut self, payer: Payer) -> &mut Turnover {
        let known = self.turnovers.iter().rposition(|(other, _)| *other == payer);
        let at = known.unwrap_or_else(|| {
            self.turnovers.push((payer, Turnover::default()));
            self.turnovers.len() - 1
        });
        &mut self.turnovers[at].1
    }

    /// Notes a change of addresses alone, by so many bytes.
    #[inline]
    pub(crate) fn note_addresses(&mut self, payer: Payer, bytes: i64) {
        if self.addresses.0 != payer {
            self.note_last_addresses();
            self.addresses.0 = payer;
        }
        // There is no memory to note as many mappings as it would take that this does not fit.
        self.addresses.1 = self.addresses.1.wrapping_add(bytes);
    }

    /// Notes the last change of addresses with all else.
    #[inline(never)]
    fn note_last_addresses(&mut self) {
        let iova_bytes = core::mem::take(&mut self.addresses.1);
        self.note(self.addresses.0, Turnover { iova_bytes, ..Turnover::default() });
    }

    /// The bytes of addresses that have come to a payer, if nothing else has changed that nobody was told of.
    #[inline]
    pub(crate) fn owes(&self, payer: Payer) -> Option<i64> {
        let (last, bytes) = self.addresses;
        (self.turnovers.is_empty() && (last == payer || bytes == 0)).then_some(bytes)
    }

    /// What has changed for a payer that nobody was told of.
    pub(crate) fn take(&mut self) -> Option<(Payer, Turnover)> {
        self.note_last_addresses();
        self.turnovers.pop()
    }
}

/// Frames of which no more than so many are given out, and it is known which.
pub(crate) struct Metered<'a, F> {
    frames: &'a mut F,
    left: u64,
    pub(crate) bill: Bill,
}

/// What an operation has taken of frames.
pub(crate) struct Bill {
    /// Those that were given out and not given back.
    pub(crate) taken: Vec<PhysAddr>,
    /// Whether one was refused because there were too many.
    pub(crate) refused: bool,
}

impl Bill {
    /// Why an operation failed with these frames: if one was refused, not for want of memory.
    pub(crate) fn error(&self, error: EngineError) -> EngineError {
        match error {
            EngineError::OutOfFrames | EngineError::Map(MapError::OutOfFrames) if self.refused => {
                EngineError::TablesNotPaid
            }
            error => error,
        }
    }
}

impl<F: TableFrames> TableFrames for Metered<'_, F> {
    fn header_frame(&self) -> PhysAddr {
        self.frames.header_frame()
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        let Self { bill: Bill { taken, refused }, .. } = self;
        if taken.len() as u64 >= self.left {
            *refused = true;
            return None;
        }
        taken.try_reserve(1).ok()?;
        let frame = self.frames.alloc_frame()?;
        taken.push(frame);
        Some(frame)
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        let taken = &mut self.bill.taken;
        if let Some(index) = taken.iter().rposition(|taken| *taken == frame) {
            taken.swap_remove(index);
        }
        self.frames.free_frame(frame);
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        self.frames.alloc_table(frames)
    }

    #[inline]
    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.frames.table(frame)
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        self.frames.flush_entries(frame, entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakeFrames;

    #[test]
    fn no_more_frames_are_taken_than_the_purse_has_and_what_is_given_back_may_be_taken_again() {
        let mut frames = FakeFrames::new(8);
        let books = Books {
            purse: Purse { payer: Payer(7), client: Payer(7), frames: 3 },
            ..Books::default()
        };
        let mut metered = books.meter(&mut frames, 1);
        let one = metered.alloc_frame().unwrap();
        let other = metered.alloc_frame().unwrap();
        assert!(!metered.bill.refused);
        assert_eq!((metered.alloc_frame(), metered.bill.refused), (None, true));
        metered.free_frame(one);
        assert_eq!(metered.bill.taken, [other]);
        let again = metered.alloc_frame().unwrap();
        assert_eq!(metered.bill.taken, [other, again]);
        metered.free_frame(other);
        metered.free_frame(again);
        assert!(metered.bill.taken.is_empty());
        assert_eq!(frames.live(), 0);
    }

    #[test]
    fn what_a_payer_takes_and_gives_back_is_told_once_and_of_nobody_nothing() {
        let mut books = Books::default();
        let addresses = |iova_bytes| Turnover { iova_bytes, ..Turnover::default() };
        for (payer, change) in [(1, 5), (2, 3), (1, -2), (0, 9), (1, 0)] {
            books.note(Payer(payer), addresses(change));
        }
        let told = [books.take(), books.take()];
        assert_eq!(told, [2, 1].map(|payer| Some((Payer(payer), addresses(3)))));
        assert_eq!(books.take(), None);
    }

    #[test]
    fn addresses_alone_are_known_without_being_told_and_told_with_all_else() {
        let mut books = Books::default();
        let (one, other) = (Payer(1), Payer(2));
        assert_eq!((books.owes(one), books.owes(other)), (Some(0), Some(0)));
        books.note_addresses(one, 5);
        books.note_addresses(one, -2);
        assert_eq!((books.owes(one), books.owes(other)), (Some(3), None));
        books.note_addresses(Payer::NOBODY, 7);
        books.note(other, Turnover { frames: 1, ..Turnover::default() });
        books.note_addresses(other, 4);
        assert_eq!((books.owes(one), books.owes(other)), (None, None));
        let told = [books.take(), books.take(), books.take()];
        let of_other = Turnover { frames: 1, iova_bytes: 4, ..Turnover::default() };
        let of_one = Turnover { iova_bytes: 3, ..Turnover::default() };
        assert_eq!(told, [Some((other, of_other)), Some((one, of_one)), None]);
        assert_eq!(books.owes(other), Some(0));
    }
}
