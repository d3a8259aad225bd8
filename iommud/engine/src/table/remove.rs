//! How a range is removed, and large pages taken apart.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PhysAddr};

use super::enter::{Enter, Node, Supply};
use super::error::UnmapError;
use super::format::{Entry, Format, PAGE_SHIFT, index, shift};
use super::page_table::{Unmapped, is_within};
use super::pieces::Pieces;
use crate::platform::{Segment, TableFrame, TableFrames};
use crate::vtd::invalidation::Touched;

/// Removes one range.
pub(super) struct Remove<F> {
    format: F,
    start: u64,
    end: u64,
    /// The range with all of the large pages that it took a part of.
    widened: (u64, u64),
    tables_changed: bool,
    supply: Supply,
}

/// A page in a table.
#[derive(Clone, Copy)]
struct Page {
    iova: u64,
    start: PhysAddr,
    order: u32,
    access: Access,
}

impl Page {
    fn end(&self) -> u64 {
        self.iova + (1 << self.order)
    }
}

impl<F: Format> Remove<F> {
    pub(super) fn new(format: F, start: u64, end: u64) -> Self {
        let supply = Supply::counting();
        Self { format, start, end, widened: (start, end), tables_changed: false, supply }
    }

    /// Removes the range from a table of level 0 that holds all of it, if nothing but entries of 4 KiB
    /// has to change; false, with nothing changed, if more has.
    #[inline]
    pub(super) fn small_pages(
        &mut self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        table: &TableFrame,
    ) -> Result<bool, UnmapError> {
        if self.format.page_sizes() & ((1 << shift(1)) - 1) != 1 << PAGE_SHIFT {
            return Ok(false);
        }
        let (first, last) = (index(0, self.start), index(0, self.end - 1) + 1);
        let range = &table[first..last];
        let empty = range.iter().position(|word| word.load(Ordering::Relaxed) == 0);
        if let Some(pages) = empty {
            return Err(not_mapped(self.start + ((pages as u64) << PAGE_SHIFT)));
        }
        if !has_others(table, first, last) {
            return Ok(false);
        }
        range.iter().for_each(|word| word.store(0, Ordering::Release));
        if !self.format.is_coherent() {
            frames.flush_entries(frame, first..last);
        }
        Ok(true)
    }

    /// What was changed.
    pub(super) fn done(&self) -> Unmapped {
        let (start, end) = self.widened;
        let touched = if self.tables_changed { Touched::Tables } else { Touched::Leaves };
        Unmapped { start: Iova::new(start), bytes: end - start, touched }
    }

    /// What was changed, with what was not needed given back.
    pub(super) fn finish(mut self, frames: &mut impl TableFrames) -> Unmapped {
        core::mem::take(&mut self.supply).give_back(frames);
        self.done()
    }

    /// Whether all of the range is mapped, and how many frames it takes to take large pages apart.
    pub(super) fn check(
        &mut self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        top: u8,
    ) -> Result<(), UnmapError> {
        self.check_table(frames, frame, top, self.start, self.end)
    }

    fn check_table(
        &mut self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        level: u8,
        iova: u64,
        end: u64,
    ) -> Result<(), UnmapError> {
        let table = frames.table(frame).ok_or(UnmapError::Foreign(frame))?;
        let mut at = iova;
        while at < end {
            let part = end.min((at | ((1 << shift(level)) - 1)) + 1);
            let word = table[index(level, at)].load(Ordering::Acquire);
            match self.format.decode(level, word) {
                Entry::Empty => return Err(not_mapped(at)),
                Entry::Table { frame, level: below, .. } => {
                    if below >= level {
                        return Err(UnmapError::Foreign(frame));
                    }
                    for edge in [at, part - 1] {
                        if !is_within(edge, level, below) {
                            return Err(not_mapped(edge));
                        }
                    }
                    self.check_table(frames, frame, below, at, part)?;
                    at = part;
                }
                Entry::Leaf { start, order, access } => {
                    let page = page_at(at, start, order, access);
                    self.count_split(frames, level, &page)?;
                    at = page.end().min(end);
                }
            }
        }
        Ok(())
    }

    /// Counts the frames for what is left of a page.
    fn count_split(
        &mut self,
        frames: &impl TableFrames,
        level: u8,
        page: &Page,
    ) -> Result<(), UnmapError> {
        for (slot_start, slot_end) in slots_of(page, level) {
            if !self.cuts(slot_start, slot_end) {
                continue;
            }
            self.supply.need(1);
            for (start, end) in self.left_of(slot_start, slot_end) {
                let segment = [page.memory(start, end)];
                let enter = Enter { format: self.format, access: page.access };
                let mut pieces = Pieces::new(&segment);
                let supply = &mut self.supply;
                enter.check(frames, Node::Missing, level - 1, start..end, &mut pieces, supply)?;
            }
        }
        Ok(())
    }

    /// Allocates what was counted.
    pub(super) fn allocate(&mut self, frames: &mut impl TableFrames) -> Result<(), UnmapError> {
        Ok(self.supply.allocate(frames, self.format.is_coherent())?)
    }

    /// Removes the range, which was checked.
    pub(super) fn clear(
        &mut self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        top: u8,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<(), UnmapError> {
        // The root stays, however empty it is.
        self.clear_table(frames, frame, top, self.start, self.end, retired).map(drop)
    }

    /// Removes a part of the range from a table; whether the table is empty then.
    fn clear_table(
        &mut self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        level: u8,
        iova: u64,
        end: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<bool, UnmapError> {
        let table = frames.table(frame).ok_or(UnmapError::Foreign(frame))?;
        let near = index(level, iova);
        let mut at = iova;
        while at < end {
            let part = end.min((at | ((1 << shift(level)) - 1)) + 1);
            let slot = index(level, at);
            match self.format.decode(level, table[slot].load(Ordering::Acquire)) {
                Entry::Empty => return Err(not_mapped(at)),
                Entry::Table { frame: child, level: below, .. } => {
                    if self.clear_table(frames, child, below, at, part, retired)? {
                        self.store(frames, frame, slot, 0)?;
                        retired.push(child);
                        self.tables_changed = true;
                    }
                    at = part;
                }
                Entry::Leaf { start, order, access } => {
                    let page = page_at(at, start, order, access);
                    self.clear_page(frames, frame, level, &page)?;
                    at = page.end().min(end);
                }
            }
        }
        Ok(!has_others(table, near, near))
    }

    /// Removes a page, or the part of it that is in the range.
    ///
    /// What is left of it stays mapped all the time: each entry changes with one store, from a part of the
    /// large page to the same memory by smaller ones.
    fn clear_page(
        &mut self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        level: u8,
        page: &Page,
    ) -> Result<(), UnmapError> {
        for (slot_start, slot_end) in slots_of(page, level) {
            let word = if self.cuts(slot_start, slot_end) {
                self.split(frames, level, page, slot_start, slot_end)?
            } else if slot_end <= self.start || slot_start >= self.end {
                let memory = page.memory(slot_start, slot_end);
                self.format.leaf(level, shift(level), memory.start, page.access)
            } else {
                0
            };
            self.store(frames, frame, index(level, slot_start), word)?;
        }
        if page.iova < self.start || page.end() > self.end {
            let (start, end) = self.widened;
            self.widened = (start.min(page.iova), end.max(page.end()));
        }
        Ok(())
    }

    /// Makes a table for what is left of one entry's part of a page; the word that points to it.
    fn split(
        &mut self,
        frames: &impl TableFrames,
        level: u8,
        page: &Page,
        slot_start: u64,
        slot_end: u64,
    ) -> Result<u64, UnmapError> {
        let new = self.supply.take()?;
        for (start, end) in self.left_of(slot_start, slot_end) {
            let segment = [page.memory(start, end)];
            let enter = Enter { format: self.format, access: page.access };
            let mut pieces = Pieces::new(&segment);
            enter.write(frames, new, level - 1, start..end, &mut pieces, &mut self.supply)?;
        }
        self.tables_changed = true;
        Ok(self.format.table(level, new, level - 1))
    }

    /// Whether the range takes a part of these addresses, and leaves a part.
    fn cuts(&self, start: u64, end: u64) -> bool {
        let touches = self.start < end && start < self.end;
        touches && (start < self.start || self.end < end)
    }

    /// What the range leaves of these addresses: before it, and after it.
    fn left_of(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + use<F> {
        let parts = [(start, self.start.min(end)), (self.end.max(start), end)];
        parts.into_iter().filter(|(start, end)| start < end)
    }

    fn store(
        &self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        slot: usize,
        word: u64,
    ) -> Result<(), UnmapError> {
        let enter = Enter { format: self.format, access: Access::Read };
        Ok(enter.store(frames, frame, slot, word)?)
    }
}

impl Page {
    /// The memory behind a part of the page.
    fn memory(&self, start: u64, end: u64) -> Segment {
        let offset = start - self.iova;
        Segment { start: PhysAddr::new(self.start.get() + offset), bytes: end - start }
    }
}

/// The page that an address is in. One that allows nothing is kept as one that may be read, should it have
/// to be taken apart: the engine makes none.
fn page_at(at: u64, start: PhysAddr, order: u32, access: Option<Access>) -> Page {
    let iova = at & !((1 << order) - 1);
    Page { iova, start, order, access: access.unwrap_or(Access::Read) }
}

/// The addresses of each entry that a page fills in a table of this level.
fn slots_of(page: &Page, level: u8) -> impl Iterator<Item = (u64, u64)> + use<> {
    let span = 1u64 << shift(level);
    let (start, end) = (page.iova, page.end());
    (0..(end - start) / span).map(move |slot| (start + slot * span, start + (slot + 1) * span))
}

/// Whether any entry before `first` or from `last` on is in use. It looks outwards from there, for that is
/// where neighbours are.
fn has_others(table: &TableFrame, first: usize, last: usize) -> bool {
    let in_use = |slot: usize| table[slot].load(Ordering::Relaxed) != 0;
    let (mut below, mut above) = (first, last);
    while below > 0 || above < table.len() {
        if below > 0 {
            below -= 1;
            if in_use(below) {
                return true;
            }
        }
        if above < table.len() {
            if in_use(above) {
                return true;
            }
            above += 1;
        }
    }
    false
}

fn not_mapped(at: u64) -> UnmapError {
    UnmapError::NotMapped(Iova::new(at))
}
