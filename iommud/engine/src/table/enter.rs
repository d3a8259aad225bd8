//! How a range is entered: looked at first, then written.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};

use super::error::MapError;
use super::format::{Entry, Format, INDEX_BITS, PAGE_SHIFT, index, shift};
use super::page_table::is_within;
use super::pieces::Pieces;
use crate::platform::{TableFrame, TableFrames};
use crate::vtd::invalidation::Touched;

/// The frames that an operation needs: counted first, then allocated, then used.
#[derive(Debug, Default)]
pub(super) struct Supply {
    needed: usize,
    frames: Vec<PhysAddr>,
    used: bool,
}

impl Supply {
    pub(super) fn counting() -> Self {
        Self::default()
    }

    pub(super) fn need(&mut self, frames: usize) {
        self.needed += frames;
    }

    /// Allocates what is needed, all or nothing.
    pub(super) fn allocate(
        &mut self,
        frames: &mut impl TableFrames,
        coherent: bool,
    ) -> Result<(), MapError> {
        for _ in 0..self.needed {
            let Some(frame) = frames.alloc_frame() else {
                self.frames.drain(..).for_each(|frame| frames.free_frame(frame));
                return Err(MapError::OutOfFrames);
            };
            if !coherent {
                frames.flush_entries(frame, 0..512);
            }
            self.frames.push(frame);
        }
        Ok(())
    }

    /// A frame of zeroes.
    pub(super) fn take(&mut self) -> Result<PhysAddr, MapError> {
        self.used = true;
        self.frames.pop().ok_or(MapError::OutOfFrames)
    }

    /// Gives back what was not needed after all.
    pub(super) fn give_back(self, frames: &mut impl TableFrames) {
        self.frames.into_iter().for_each(|frame| frames.free_frame(frame));
    }

    /// What kind of entries the operation changed: a frame that was used has been linked.
    pub(super) fn touched(&self) -> Touched {
        if self.used { Touched::Tables } else { Touched::Leaves }
    }
}

/// A table that is looked at: one that exists, or one that will.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    /// It will be made, empty.
    Missing,
    /// It exists.
    Table(PhysAddr),
    /// It will be made over another, which its first entry will lead to: directly, or (`chain`) by one
    /// table on each level between.
    Over { old: PhysAddr, old_level: u8, chain: bool },
}

/// Enters ranges with one format and access.
pub(super) struct Enter<F> {
    pub(super) format: F,
    pub(super) access: Access,
}

impl<F: Format> Enter<F> {
    /// Enters a range by 4 KiB pages in a table of level 0 that holds all of it.
    #[inline]
    pub(super) fn small_pages(
        &self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        table: &TableFrame,
        iova: u64,
        end: u64,
        mut pieces: Pieces<'_>,
    ) -> Result<Touched, MapError> {
        let first = index(0, iova);
        let last = index(0, end - 1);
        let occupied =
            table[first..=last].iter().position(|word| word.load(Ordering::Relaxed) != 0);
        if let Some(pages) = occupied {
            return Err(MapError::Occupied(Iova::new(iova + ((pages as u64) << PAGE_SHIFT))));
        }
        self.store_small(&table[first..=last], &mut pieces);
        if !self.format.is_coherent() {
            frames.flush_entries(frame, first..last + 1);
        }
        Ok(Touched::Leaves)
    }

    /// Fills entries of level 0 with the next 4 KiB pages.
    #[inline]
    fn store_small(&self, mut entries: &[AtomicU64], pieces: &mut Pieces<'_>) {
        while !entries.is_empty() {
            let (start, bytes) = pieces.first();
            let pages = entries.len().min((bytes >> PAGE_SHIFT) as usize);
            if pages == 0 {
                return;
            }
            let (now, later) = entries.split_at(pages);
            let mut word = self.format.leaf(0, PAGE_SHIFT, PhysAddr::new(start), self.access);
            for entry in now {
                entry.store(word, Ordering::Release);
                // The address stands at its own place in the word.
                word += PAGE_SIZE;
            }
            pieces.take((pages as u64) << PAGE_SHIFT);
            entries = later;
        }
    }

    /// Whether a range can be entered in this table, all of which it is in, and how many frames that takes.
    pub(super) fn check(
        &self,
        frames: &impl TableFrames,
        node: Node,
        level: u8,
        range: Range<u64>,
        pieces: &mut Pieces<'_>,
        supply: &mut Supply,
    ) -> Result<(), MapError> {
        let Range { start: mut at, end } = range;
        while at < end {
            if let Some(order) = self.page_order(level, at, end, pieces) {
                for slot in self.slots(level, at, order) {
                    if self.entry(frames, node, level, slot)? != Entry::Empty {
                        return Err(MapError::Occupied(Iova::new(at)));
                    }
                }
                pieces.take(1 << order);
                at += 1 << order;
                continue;
            }
            let part = end.min((at | ((1 << shift(level)) - 1)) + 1);
            let (child, below) = match self.entry(frames, node, level, index(level, at))? {
                Entry::Leaf { .. } => return Err(MapError::Occupied(Iova::new(at))),
                Entry::Empty => {
                    supply.need(1);
                    (Node::Missing, self.level_below(level, at, part))
                }
                Entry::Table { frame, level: below, .. } => match node {
                    Node::Over { chain: true, .. } if below + 1 < level => (node, level - 1),
                    _ if below >= level => return Err(MapError::Foreign(frame)),
                    _ if holds(level, below, at, part) => (Node::Table(frame), below),
                    _ => {
                        supply.need(1);
                        (Node::Over { old: frame, old_level: below, chain: false }, level - 1)
                    }
                },
            };
            self.check(frames, child, below, at..part, pieces, supply)?;
            at = part;
        }
        Ok(())
    }

    /// Enters a range that was checked. A table is whole before it is linked.
    pub(super) fn write(
        &self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        level: u8,
        range: Range<u64>,
        pieces: &mut Pieces<'_>,
        supply: &mut Supply,
    ) -> Result<(), MapError> {
        let Range { start: mut at, end } = range;
        let table = frames.table(frame).ok_or(MapError::Foreign(frame))?;
        if level == 0 && self.only_small_pages() {
            let (first, last) = (index(0, at), index(0, end - 1));
            self.store_small(&table[first..=last], pieces);
            if !self.format.is_coherent() {
                frames.flush_entries(frame, first..last + 1);
            }
            return Ok(());
        }
        while at < end {
            if let Some(order) = self.page_order(level, at, end, pieces) {
                let (start, _) = pieces.first();
                let word = self.format.leaf(level, order, PhysAddr::new(start), self.access);
                for slot in self.slots(level, at, order) {
                    self.store(frames, frame, slot, word)?;
                }
                pieces.take(1 << order);
                at += 1 << order;
                continue;
            }
            let part = end.min((at | ((1 << shift(level)) - 1)) + 1);
            let slot = index(level, at);
            match self.format.decode(level, table[slot].load(Ordering::Acquire)) {
                Entry::Leaf { .. } => return Err(MapError::Occupied(Iova::new(at))),
                Entry::Empty => {
                    let below = self.level_below(level, at, part);
                    let new = supply.take()?;
                    self.write(frames, new, below, at..part, pieces, supply)?;
                    self.store(frames, frame, slot, self.format.table(level, new, below))?;
                }
                Entry::Table { frame: old, level: below, .. } if holds(level, below, at, part) => {
                    self.write(frames, old, below, at..part, pieces, supply)?;
                }
                Entry::Table { frame: old, level: below, .. } => {
                    let new = supply.take()?;
                    let down = self.format.table(level - 1, old, below);
                    self.store(frames, new, 0, down)?;
                    self.write(frames, new, level - 1, at..part, pieces, supply)?;
                    self.store(frames, frame, slot, self.format.table(level, new, level - 1))?;
                }
            }
            at = part;
        }
        Ok(())
    }

    /// Writes one entry.
    pub(super) fn store(
        &self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        slot: usize,
        word: u64,
    ) -> Result<(), MapError> {
        let table = frames.table(frame).ok_or(MapError::Foreign(frame))?;
        table[slot].store(word, Ordering::Release);
        if !self.format.is_coherent() {
            frames.flush_entries(frame, slot..slot + 1);
        }
        Ok(())
    }

    /// The entry of a table, as it is or will be before anything is entered.
    fn entry(
        &self,
        frames: &impl TableFrames,
        node: Node,
        level: u8,
        slot: usize,
    ) -> Result<Entry, MapError> {
        match node {
            Node::Table(frame) => {
                let table = frames.table(frame).ok_or(MapError::Foreign(frame))?;
                Ok(self.format.decode(level, table[slot].load(Ordering::Acquire)))
            }
            Node::Over { old, old_level, .. } if slot == 0 => {
                let access = Some(Access::ReadWrite);
                Ok(Entry::Table { frame: old, level: old_level, access })
            }
            Node::Over { .. } | Node::Missing => Ok(Entry::Empty),
        }
    }

    /// The largest page that can be put in a table of this level at `at`, if any can.
    fn page_order(&self, level: u8, at: u64, end: u64, pieces: &Pieces<'_>) -> Option<u32> {
        let (start, bytes) = pieces.first();
        let fits = bytes.min(end - at).checked_ilog2()?;
        let aligned = (at | start).trailing_zeros();
        let of_level = (1u64 << (shift(level) + INDEX_BITS)) - (1 << shift(level));
        let possible = (2u64 << fits.min(aligned).min(62)) - 1;
        (self.format.page_sizes() & of_level & possible).checked_ilog2()
    }

    /// The entries that a page at `at` fills.
    fn slots(&self, level: u8, at: u64, order: u32) -> Range<usize> {
        let first = index(level, at);
        first..first + (1 << (order - shift(level)))
    }

    /// The level of the table that is made for a part of what an entry spans.
    fn level_below(&self, level: u8, at: u64, part: u64) -> u8 {
        let mut below = level - 1;
        while F::SKIPS_LEVELS && below > 0 && holds(level, below - 1, at, part) {
            below -= 1;
        }
        below
    }

    fn only_small_pages(&self) -> bool {
        self.format.page_sizes() & ((1 << shift(1)) - 1) == 1 << PAGE_SHIFT
    }
}

/// Whether a table of level `below`, under an entry of a table of `level`, holds a range.
fn holds(level: u8, below: u8, at: u64, end: u64) -> bool {
    below < level && is_within(at, level, below) && is_within(end - 1, level, below)
}
