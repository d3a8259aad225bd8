//! Numbers that are never used again, whichever daemon gave them out.
//!
//! Sessions, buffers and generations are counted, and a client of before a restart may name one that has long gone. So a
//! daemon writes down in the ledger how far it may have counted, some numbers ahead of itself, and its successor counts on
//! from there.

use iommu_engine::ledger::{Ledger, RECORD_WORDS, Record, Slot};
use iommu_engine::platform::Platform;
use iommu_engine::records::words;
use libdma::Error;

use crate::error::to_client;
use crate::service::Service;

/// How many numbers are set aside at a time: a record is written once for as many.
const STEP: u64 = 1024;

/// The highest numbers that may be in use, and how often the ledger has been adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NumbersRecord {
    /// Of a session.
    pub session: u64,
    /// Of a buffer, or a peer's BAR.
    pub buffer: u64,
    /// A generation of any device.
    pub generation: u64,
    /// How many daemons have adopted what is written here.
    pub incarnation: u64,
}

impl Record for NumbersRecord {
    const KIND: u64 = 0x15;

    fn to_words(&self) -> [u64; RECORD_WORDS] {
        words([self.session, self.buffer, self.generation, self.incarnation])
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
        let [session, buffer, generation, incarnation, ..] = *words;
        Some(Self { session, buffer, generation, incarnation })
    }
}

/// What is set aside, and where that is written down.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    aside: NumbersRecord,
    slot: Option<Slot>,
}

impl<P: Platform> Service<P> {
    /// Counts on from what a predecessor has written down in the ledger that is adopted.
    pub(crate) fn count_on(&mut self) {
        let written = Ledger::records::<NumbersRecord>(&self.platform).unwrap_or_default();
        if let Some((slot, aside)) = written.first().copied() {
            self.numbers = Numbers { aside, slot: Some(slot) };
            self.sessions.count_from(aside);
            self.incarnation = self.incarnation.max(aside.incarnation);
        }
        self.incarnation += 1;
    }

    /// Counts from somewhere else, for nobody knows how far a predecessor has come of which nothing can be adopted: numbers of
    /// its clients are among four billion others.
    pub(crate) fn count_elsewhere(&mut self) {
        let [a, b, c, d, ..] = self.platform.entropy();
        let from = (u64::from(u32::from_le_bytes([a, b, c, d])) + 1) << 16;
        let incarnation = self.incarnation;
        let (session, buffer, generation) = (from, from, from);
        self.sessions.count_from(NumbersRecord { session, buffer, generation, incarnation });
    }

    /// Sees to it that the next number of each kind is set aside. To be called before one is given out that is written down.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] if there is no memory for the ledger.
    pub(crate) fn set_numbers_aside(&mut self) -> Result<(), Error> {
        let used = self.sessions.highest();
        let aside = &mut self.numbers.aside;
        let ahead = |aside: u64, used: u64| if used < aside { aside } else { used + STEP };
        let wanted = NumbersRecord {
            session: ahead(aside.session, used.session),
            buffer: ahead(aside.buffer, used.buffer),
            generation: ahead(aside.generation, used.generation),
            incarnation: self.incarnation,
        };
        if wanted == *aside && self.numbers.slot.is_some() {
            return Ok(());
        }
        match self.numbers.slot {
            // Each word alone is higher than it was or as high, so that it does not matter in which order they are seen.
            Some(slot) => self.engine.update_record(&self.platform, slot, &wanted),
            None => {
                let slot = self.engine.write_record(&mut self.platform, &wanted);
                self.numbers.slot = Some(slot.map_err(to_client)?);
            }
        }
        self.numbers.aside = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lie_in_the_ledger_as_written_down() {
        let numbers = NumbersRecord { session: 3, buffer: 4, generation: 5, incarnation: 6 };
        assert_eq!(numbers.to_words()[..5], [3, 4, 5, 6, 0]);
        assert_eq!(NumbersRecord::from_words(&numbers.to_words()), Some(numbers));
    }
}
