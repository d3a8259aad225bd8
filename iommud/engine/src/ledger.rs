//! What must survive the daemon, written where it survives: in the table arena.
//!
//! A daemon that is restarted finds its devices running. Their tables are in the arena and can be walked,
//! but from where, and whose is what? The ledger says it: a chain of frames that starts at the arena's
//! [header frame](TableFrames::header_frame), with a record for each unit, domain, attachment, session
//! and buffer. Nothing that must survive lives only on the heap; which frames are free is not written
//! down, because everything that is not reachable from a record is.
//!
//! A record is valid from the store of its kind word, the last, to the store of zero there, the first: a
//! daemon that dies at any instruction leaves whole records only.
//!
//! # Layout
//!
//! A frame is 32 slots of 16 words. Slot 0 of each frame is its header: [`MAGIC`], [`VERSION`], and the
//! physical address of the next frame or zero. In the other slots word 0 is the record's kind, zero for
//! none, and words 1 to 15 are what [`Record::to_words`] made of it.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use dma_types::PhysAddr;
use thiserror::Error;

use crate::platform::{TableFrame, TableFrames};

/// The first word of each frame of the ledger: "IOMMULED" in ASCII, first letter lowest.
pub const MAGIC: u64 = u64::from_le_bytes(*b"IOMMULED");

/// The second word: the layout of this page.
pub const VERSION: u64 = 2;

/// Words of a record, without its kind.
pub const RECORD_WORDS: usize = 15;

const SLOT_WORDS: usize = RECORD_WORDS + 1;
const SLOTS: usize = 512 / SLOT_WORDS;
const NEXT_WORD: usize = 2;

/// The most frames that a reader follows, so that a chain bent into a ring ends (rule R5): 128 MiB of
/// records, more than any arena has.
const MAX_FRAMES: usize = 1 << 15;

/// Something that is written in the ledger.
pub trait Record: Sized {
    /// Its kind, not zero, and its own among all records.
    const KIND: u64;

    /// The record as words.
    fn to_words(&self) -> [u64; RECORD_WORDS];

    /// The record from words, or `None` if they make no sense.
    fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self>;
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    frame: PhysAddr,
    index: usize,
}

/// Why the ledger could not be made or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// No frame for more records.
    #[error("there is no memory for the ledger")]
    OutOfFrames,
    /// A frame of the chain is not in the arena, or does not start as it must.
    #[error("the ledger is broken at {0}")]
    Broken(PhysAddr),
}

/// The writer's side of the ledger.
#[derive(Debug)]
pub struct Ledger {
    last: PhysAddr,
    free: Vec<Slot>,
}

impl Ledger {
    /// Starts an empty ledger in the arena's header frame.
    pub fn create(frames: &impl TableFrames) -> Result<Self, LedgerError> {
        let head = frames.header_frame();
        let mut ledger = Self { last: head, free: Vec::new() };
        ledger.format(frames, head)?;
        Ok(ledger)
    }

    /// The ledger that a predecessor left: to be gone on with, and all its frames, the header first.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Broken`] if the chain of frames is.
    pub fn found(frames: &impl TableFrames) -> Result<(Self, Vec<PhysAddr>), LedgerError> {
        let mut at = frames.header_frame();
        let (mut chain, mut free) = (Vec::new(), Vec::new());
        while chain.len() < MAX_FRAMES {
            let table = frame_of(frames, at)?;
            chain.push(at);
            let is_free = |index: &usize| table[index * SLOT_WORDS].load(Ordering::Acquire) == 0;
            free.extend((1..SLOTS).filter(is_free).map(|index| Slot { frame: at, index }));
            match table[NEXT_WORD].load(Ordering::Acquire) {
                0 => return Ok((Self { last: at, free }, chain)),
                next => at = PhysAddr::new(next),
            }
        }
        Err(LedgerError::Broken(at))
    }

    /// Writes a record down.
    pub fn insert<R: Record>(
        &mut self,
        frames: &mut impl TableFrames,
        record: &R,
    ) -> Result<Slot, LedgerError> {
        if self.free.is_empty() {
            self.grow(frames)?;
        }
        let slot = self.free.pop().ok_or(LedgerError::OutOfFrames)?;
        let words = slot_words(frames, slot)?;
        for (word, value) in words[1..].iter().zip(record.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        words[0].store(R::KIND, Ordering::Release);
        Ok(slot)
    }

    /// Writes a record over the one of its kind in the slot. It must differ in one word, for it to be one or the
    /// other to whoever reads it at any instant.
    pub fn update<R: Record>(&self, frames: &impl TableFrames, slot: Slot, record: &R) {
        let Ok(words) = slot_words(frames, slot) else { return };
        for (word, value) in words[1..].iter().zip(record.to_words()) {
            word.store(value, Ordering::Release);
        }
    }

    /// What is written down in a slot, if it is of this kind.
    pub fn read<R: Record>(frames: &impl TableFrames, slot: Slot) -> Option<R> {
        let words = slot_words(frames, slot).ok()?;
        let kind = words.first()?.load(Ordering::Acquire);
        let payload = core::array::from_fn(|word| words[word + 1].load(Ordering::Relaxed));
        R::from_words(&payload).filter(|_| kind == R::KIND)
    }

    /// Strikes a record out. Its slot is used again.
    pub fn remove(&mut self, frames: &impl TableFrames, slot: Slot) {
        if let Ok(words) = slot_words(frames, slot) {
            words[0].store(0, Ordering::Release);
            self.free.push(slot);
        }
    }

    /// Every record of a kind, read from the arena alone.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Broken`] if the chain of frames is; records that make no sense are left out.
    pub fn records<R: Record>(frames: &impl TableFrames) -> Result<Vec<(Slot, R)>, LedgerError> {
        let mut found = Vec::new();
        let mut at = frames.header_frame();
        for _ in 0..MAX_FRAMES {
            let table = frame_of(frames, at)?;
            for index in 1..SLOTS {
                let words = &table[index * SLOT_WORDS..(index + 1) * SLOT_WORDS];
                if words[0].load(Ordering::Acquire) == R::KIND {
                    let payload =
                        core::array::from_fn(|word| words[word + 1].load(Ordering::Relaxed));
                    found.extend(
                        R::from_words(&payload).map(|record| (Slot { frame: at, index }, record)),
                    );
                }
            }
            match table[NEXT_WORD].load(Ordering::Acquire) {
                0 => return Ok(found),
                next => at = PhysAddr::new(next),
            }
        }
        Err(LedgerError::Broken(at))
    }

    /// How many records of a kind there are, whether they make sense or not.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Broken`], as of [`records`](Self::records).
    pub fn count<R: Record>(frames: &impl TableFrames) -> Result<usize, LedgerError> {
        let (_, chain) = Self::found(frames)?;
        let kinds = chain.iter().filter_map(|frame| frames.table(*frame)).flat_map(|table| {
            (1..SLOTS).map(|index| table[index * SLOT_WORDS].load(Ordering::Acquire))
        });
        Ok(kinds.filter(|kind| *kind == R::KIND).count())
    }

    /// Adds a frame to the chain.
    fn grow(&mut self, frames: &mut impl TableFrames) -> Result<(), LedgerError> {
        let new = frames.alloc_frame().ok_or(LedgerError::OutOfFrames)?;
        let before = self.last;
        self.format(frames, new)?;
        let table = frames.table(before).ok_or(LedgerError::Broken(before))?;
        table[NEXT_WORD].store(new.get(), Ordering::Release);
        Ok(())
    }

    /// Makes a frame the ledger's last, with all its slots free.
    fn format(&mut self, frames: &impl TableFrames, frame: PhysAddr) -> Result<(), LedgerError> {
        let table = frames.table(frame).ok_or(LedgerError::Broken(frame))?;
        for index in 0..SLOTS {
            table[index * SLOT_WORDS].store(0, Ordering::Relaxed);
        }
        table[NEXT_WORD].store(0, Ordering::Relaxed);
        table[1].store(VERSION, Ordering::Relaxed);
        table[0].store(MAGIC, Ordering::Release);
        self.last = frame;
        self.free.extend((1..SLOTS).rev().map(|index| Slot { frame, index }));
        Ok(())
    }
}

/// A frame of the ledger, if it is one.
fn frame_of(frames: &impl TableFrames, at: PhysAddr) -> Result<&TableFrame, LedgerError> {
    let table = frames.table(at).ok_or(LedgerError::Broken(at))?;
    let header = [&table[0], &table[1]].map(|word| word.load(Ordering::Acquire));
    if header == [MAGIC, VERSION] { Ok(table) } else { Err(LedgerError::Broken(at)) }
}

/// The words of a slot.
fn slot_words(frames: &impl TableFrames, slot: Slot) -> Result<&[AtomicU64], LedgerError> {
    let table: &TableFrame = frames.table(slot.frame).ok_or(LedgerError::Broken(slot.frame))?;
    table
        .get(slot.index * SLOT_WORDS..(slot.index + 1) * SLOT_WORDS)
        .ok_or(LedgerError::Broken(slot.frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakeFrames;

    #[derive(Debug, PartialEq, Eq)]
    struct Number(u64);

    impl Record for Number {
        const KIND: u64 = 77;

        fn to_words(&self) -> [u64; RECORD_WORDS] {
            [self.0; RECORD_WORDS]
        }

        fn from_words(words: &[u64; RECORD_WORDS]) -> Option<Self> {
            words.iter().all(|word| *word == words[0]).then_some(Self(words[0]))
        }
    }

    fn numbers(frames: &FakeFrames) -> Vec<u64> {
        let records = Ledger::records::<Number>(frames).unwrap();
        records.into_iter().map(|(_, Number(number))| number).collect()
    }

    #[test]
    fn records_are_found_from_the_arena_alone_over_several_frames() {
        let mut frames = FakeFrames::new(8);
        let mut ledger = Ledger::create(&frames).unwrap();
        let slots: Vec<_> =
            (1..=100).map(|n| ledger.insert(&mut frames, &Number(n)).unwrap()).collect();
        for slot in &slots[..50] {
            ledger.remove(&frames, *slot);
        }
        drop(ledger);
        assert_eq!(frames.live(), 3);
        assert_eq!(numbers(&frames), (51..=100).collect::<Vec<_>>());
    }

    #[test]
    fn a_record_lies_in_the_arena_as_written_down() {
        let mut frames = FakeFrames::new(2);
        let mut ledger = Ledger::create(&frames).unwrap();
        ledger.insert(&mut frames, &Number(5)).unwrap();
        let table = frames.table(frames.header_frame()).unwrap();
        let word = |index: usize| table[index].load(Ordering::Relaxed);
        assert_eq!(word(0).to_le_bytes(), *b"IOMMULED");
        assert_eq!((word(1), word(2)), (2, 0));
        assert_eq!((word(16), word(17), word(31), word(32)), (77, 5, 5, 0));
    }

    #[test]
    fn a_ledger_that_is_found_goes_on_where_it_was_left() {
        let mut frames = FakeFrames::new(8);
        let mut ledger = Ledger::create(&frames).unwrap();
        let slots: Vec<_> =
            (1..=40).map(|n| ledger.insert(&mut frames, &Number(n)).unwrap()).collect();
        ledger.remove(&frames, slots[3]);
        let (mut found, chain) = Ledger::found(&frames).unwrap();
        assert_eq!((chain.len(), found.free.len()), (2, 2 * (SLOTS - 1) - 39));
        for n in 41..=64 {
            found.insert(&mut frames, &Number(n)).unwrap();
        }
        assert_eq!((numbers(&frames).len(), frames.live()), (63, 2));
    }

    #[test]
    fn a_slot_is_used_again() {
        let mut frames = FakeFrames::new(0);
        let mut ledger = Ledger::create(&frames).unwrap();
        for n in 0..1000 {
            let slot = ledger.insert(&mut frames, &Number(n)).unwrap();
            ledger.remove(&frames, slot);
        }
        assert_eq!(numbers(&frames), [0u64; 0]);
    }

    #[test]
    fn r7_no_frame_for_more_records_leaves_those_there_are() {
        let mut frames = FakeFrames::new(0);
        let mut ledger = Ledger::create(&frames).unwrap();
        let written = (0..1000).take_while(|n| ledger.insert(&mut frames, &Number(*n)).is_ok());
        assert_eq!(written.count(), SLOTS - 1);
        assert_eq!(numbers(&frames).len(), SLOTS - 1);
    }

    #[test]
    fn r5_a_broken_chain_is_an_error_and_ends() {
        let frames = FakeFrames::new(2);
        Ledger::create(&frames).unwrap();
        let head = frames.header_frame();
        let store = |word: usize, value| {
            frames.table(head).unwrap()[word].store(value, Ordering::Relaxed);
        };
        store(NEXT_WORD, head.get());
        assert_eq!(Ledger::records::<Number>(&frames), Err(LedgerError::Broken(head)));
        store(NEXT_WORD, 0x7000_0000_0000);
        let outside = PhysAddr::new(0x7000_0000_0000);
        assert_eq!(Ledger::records::<Number>(&frames), Err(LedgerError::Broken(outside)));
        store(0, 0);
        assert_eq!(Ledger::records::<Number>(&frames), Err(LedgerError::Broken(head)));
    }
}
