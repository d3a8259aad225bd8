//! One table of the tree: its entries, and how many of them are in use.
//!
//! The count stands in the table itself, in bits that hardware ignores ([`Format::SPARE`]), a part in each
//! of the first entries. It is modulo 512, which is enough: a table that something was added to is not
//! empty, and one that something was taken from is not full. It is wrong for as long as entries are being
//! written, or the table is one of those [used last](super::near), and trusted afterwards: see "After a restart" in the
//! [module](super). Hardware must not write to
//! entries itself (accessed and dirty flags are never turned on), or one would lose what the other wrote.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use dma_types::PhysAddr;

use super::error::Foreign;
use super::format::{Entry, Format, INDEX_BITS, index, low_bits, slot_mask, table_mask};
use crate::platform::{TableFrame, TableFrames};

/// Counts are modulo this: the number of entries.
const COUNT: usize = 1 << INDEX_BITS;

/// A table, and where it is in the tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a, F> {
    pub(super) frame: PhysAddr,
    pub(super) level: u8,
    pub(super) words: &'a TableFrame,
    pub(super) format: F,
}

impl<'a, F: Format> Node<'a, F> {
    /// The table in this frame.
    #[inline]
    pub(super) fn new(
        frames: &'a impl TableFrames,
        format: F,
        frame: PhysAddr,
        level: u8,
    ) -> Result<Self, Foreign> {
        let words = frames.table(frame).ok_or(Foreign(frame))?;
        Ok(Self { frame, level, words, format })
    }

    /// The table that an entry of this one points to. Its level must be lower: walks end (rule R5).
    #[inline]
    pub(super) fn below(
        &self,
        frames: &'a impl TableFrames,
        frame: PhysAddr,
        level: u8,
    ) -> Result<Self, Foreign> {
        let lower = if F::SKIPS_LEVELS { level < self.level } else { level + 1 == self.level };
        if !lower {
            return Err(Foreign(frame));
        }
        Self::new(frames, self.format, frame, level)
    }

    /// The sizes of pages that there can be under it as the root: none is as long as what it spans.
    #[inline]
    pub(super) fn page_sizes(&self) -> u64 {
        self.format.page_sizes() & table_mask(self.level)
    }

    /// The entry that an address goes through.
    #[inline]
    pub(super) fn entry(&self, address: u64) -> Entry {
        let word = self.words[index(self.level, address)].load(Ordering::Acquire);
        self.format.decode(self.level, word)
    }

    /// The last address of what an entry spans.
    #[inline]
    pub(super) fn slot_last(&self, address: u64) -> u64 {
        address | slot_mask(self.level)
    }

    /// The first address of what the table spans.
    #[inline]
    pub(super) fn base(&self, address: u64) -> u64 {
        address & !table_mask(self.level)
    }

    /// Some of its entries; what is beyond the end is left out.
    #[inline]
    pub(super) fn slots(&self, first: usize, count: usize) -> &'a [AtomicU64] {
        self.words.get(first..first + count).unwrap_or_default()
    }

    /// Stores one entry. `live` says by how many the entries in use become more or, as a negative number
    /// modulo 512, fewer.
    pub(super) fn store(&self, frames: &impl TableFrames, address: u64, word: u64, live: usize) {
        let count = self.live();
        let slot = index(self.level, address);
        self.words[slot].store(word, Ordering::Release);
        self.set_live(count.wrapping_add(live));
        self.flush(frames, slot, 1);
    }

    /// Has entries that were stored written back, for a unit that does not snoop.
    #[inline]
    pub(super) fn flush(&self, frames: &impl TableFrames, first: usize, count: usize) {
        if !self.format.is_coherent() {
            frames.flush_entries(self.frame, first..first + count);
        }
    }

    /// How many entries are in use, modulo 512.
    #[inline]
    pub(super) fn live(&self) -> usize {
        let mut count = 0;
        for (part, word) in self.parts() {
            let bits = word.load(Ordering::Relaxed) >> F::SPARE.shift & low_bits(F::SPARE.bits);
            count |= (bits as usize) << part;
        }
        count
    }

    /// Notes how many entries are in use, after entries have been stored without the count's bits.
    #[inline]
    pub(super) fn set_live(&self, count: usize) {
        let mask = low_bits(F::SPARE.bits) << F::SPARE.shift;
        for (part, word) in self.parts() {
            let bits = ((count % COUNT) as u64 >> part) << F::SPARE.shift & mask;
            let entry = word.load(Ordering::Relaxed) & !mask;
            word.store(entry | bits, Ordering::Release);
        }
    }

    /// The entries that hold the count, each with the place of its part.
    #[inline]
    fn parts(&self) -> impl Iterator<Item = (u32, &'a AtomicU64)> {
        (0..INDEX_BITS).step_by(F::SPARE.bits as usize).zip(self.words)
    }
}

/// Whether an address, which goes through an entry of a table of `level`, is within a table of level
/// `below` that the entry points to: the bits of the levels between are zero.
#[inline]
pub(super) fn holds<F: Format>(level: u8, below: u8, address: u64) -> bool {
    !F::SKIPS_LEVELS || address & slot_mask(level) & !table_mask(below) == 0
}

impl<F: Format> Node<'_, F> {
    /// Whether no entry is in use. It looks, where the count would not tell empty from full.
    pub(super) fn is_empty(&self) -> bool {
        self.words.iter().all(|word| word.load(Ordering::Relaxed) & F::PRESENT == 0)
    }

    /// Adds the frames of all below this table, and its own.
    pub(super) fn collect(&self, frames: &impl TableFrames, all: &mut Vec<PhysAddr>) {
        if self.level > 0 {
            for word in self.words {
                let entry = self.format.decode(self.level, word.load(Ordering::Acquire));
                if let Entry::Table { frame, level, .. } = entry
                    && let Ok(node) = self.below(frames, frame, level)
                {
                    node.collect(frames, all);
                }
            }
        }
        all.push(self.frame);
    }
}

/// Does the same to each entry, by sixteens, so that counting them costs less than doing it.
#[inline(always)]
pub(super) fn each(slots: &[AtomicU64], mut action: impl FnMut(&AtomicU64)) {
    let (sixteens, rest) = slots.as_chunks::<16>();
    sixteens.iter().for_each(|sixteen| sixteen.iter().for_each(&mut action));
    rest.iter().for_each(action);
}
