//! One page table.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};

use super::enter::{Enter, Node, Supply};
use super::error::{MapError, UnmapError};
use super::format::{Entry, Format, PAGE_SHIFT, PHYSICAL_BITS, index, shift};
use super::pieces::Pieces;
use super::remove::Remove;
use crate::platform::{Segment, TableFrame, TableFrames};
use crate::vtd::invalidation::Touched;

/// A page table: its root, and the layout of its entries.
#[derive(Debug)]
pub struct PageTable<F> {
    pub(super) format: F,
    root: PhysAddr,
    /// The level of the root.
    top: u8,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address.
    pub phys: PhysAddr,
    /// What may be done there, on the whole way.
    pub access: Access,
    /// How long the page is that it is in.
    pub page_bytes: u64,
}

/// A page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its I/O address.
    pub iova: Iova,
    /// Where it is in memory.
    pub start: PhysAddr,
    /// How long it is.
    pub bytes: u64,
    /// What may be done with it, on the whole way.
    pub access: Access,
}

/// What an unmap changed: what units must be made to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// The range, and all of the large pages of which it took a part.
    pub start: Iova,
    /// Its length.
    pub bytes: u64,
    /// Whether only entries of pages changed.
    pub touched: Touched,
}

impl<F: Format> PageTable<F> {
    /// An empty table.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfFrames`].
    pub fn new(format: F, frames: &mut impl TableFrames) -> Result<Self, MapError> {
        let root = frames.alloc_frame().ok_or(MapError::OutOfFrames)?;
        if !format.is_coherent() {
            frames.flush_entries(root, 0..512);
        }
        Ok(Self { format, root, top: format.levels().saturating_sub(1) })
    }

    /// Its root. It changes when the table [grows](Self::map).
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// How many levels it has.
    pub fn levels(&self) -> u8 {
        self.top + 1
    }

    /// Maps physical memory from `iova` on. Pages are as large as addresses and lengths allow.
    ///
    /// The root may be another afterwards, of more levels, if the format's root can grow. What was mapped
    /// before is reached through either.
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed.
    #[inline]
    pub fn map(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        access: Access,
    ) -> Result<Touched, MapError> {
        let mut bytes = 0u64;
        for segment in memory {
            if !segment.start.is_aligned(PAGE_SIZE) || !segment.bytes.is_multiple_of(PAGE_SIZE) {
                return Err(MapError::Misaligned);
            }
            // Firmware's reserved ranges come here too: what no entry can hold must not be cut to fit (R5).
            let end = segment.start.checked_add(segment.bytes).ok_or(MapError::OutOfRange)?;
            if end.get() > 1 << PHYSICAL_BITS {
                return Err(MapError::OutOfRange);
            }
            bytes = bytes.checked_add(segment.bytes).ok_or(MapError::OutOfRange)?;
        }
        let end = iova.get().checked_add(bytes).ok_or(MapError::OutOfRange)?;
        if bytes == 0 {
            return Err(MapError::Empty);
        }
        if !iova.is_aligned(PAGE_SIZE) {
            return Err(MapError::Misaligned);
        }
        if end > 1 << shift(self.format.max_levels()) {
            return Err(MapError::OutOfRange);
        }
        let pieces = Pieces::new(memory);
        if let Some((frame, table)) = self.lowest_table(frames, iova.get(), end)
            && bytes < self.smallest_large_page()
        {
            let enter = Enter { format: self.format, access };
            return enter.small_pages(frames, frame, table, iova.get(), end, pieces);
        }
        self.map_anywhere(frames, iova.get(), end, pieces, access)
    }

    /// Maps a range in two walks: one that looks, one that writes.
    fn map_anywhere(
        &mut self,
        frames: &mut impl TableFrames,
        iova: u64,
        end: u64,
        mut pieces: Pieces<'_>,
        access: Access,
    ) -> Result<Touched, MapError> {
        let mut top = self.top;
        while end > 1 << shift(top + 1) {
            top += 1;
        }
        let enter = Enter { format: self.format, access };
        let root = self.root_at(top);
        let mut supply = Supply::counting();
        supply.need(usize::from(top - self.top));
        enter.check(frames, root, top, iova..end, &mut pieces.clone(), &mut supply)?;
        supply.allocate(frames, self.format.is_coherent())?;
        while self.top < top {
            // The old root is whole, and the new one too before anybody is told of it.
            let new = supply.take()?;
            let word = self.format.table(self.top + 1, self.root, self.top);
            enter.store(frames, new, 0, word)?;
            self.root = new;
            self.top += 1;
        }
        enter.write(frames, self.root, top, iova..end, &mut pieces, &mut supply)?;
        let touched = supply.touched();
        supply.give_back(frames);
        Ok(touched)
    }

    /// The root as it will be when it has grown to this level.
    fn root_at(&self, top: u8) -> Node {
        if top == self.top {
            Node::Table(self.root)
        } else {
            Node::Over { old: self.root, old_level: self.top, chain: true }
        }
    }

    /// Unmaps a range, all of which must be mapped. Large pages of which it is a part are taken apart.
    ///
    /// Tables that are empty then are unlinked and added to `retired`. They must not be used again before
    /// every unit that could walk them has confirmed that it has forgotten the range (rule R2).
    ///
    /// # Errors
    ///
    /// [`UnmapError`], with nothing changed.
    #[inline]
    pub fn unmap(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Unmapped, UnmapError> {
        if bytes == 0 {
            return Err(UnmapError::Empty);
        }
        if !iova.is_aligned(PAGE_SIZE) || !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(UnmapError::Misaligned);
        }
        let start = iova.get();
        let end = start.checked_add(bytes).ok_or(UnmapError::NotMapped(iova))?;
        let mut remove = Remove::new(self.format, start, end);
        if let Some((frame, table)) = self.lowest_table(frames, start, end)
            && remove.small_pages(frames, frame, table)?
        {
            return Ok(remove.done());
        }
        if end > 1 << shift(self.top + 1) {
            return Err(UnmapError::NotMapped(Iova::new(1 << shift(self.top + 1))));
        }
        remove.check(frames, self.root, self.top)?;
        remove.allocate(frames)?;
        remove.clear(frames, self.root, self.top, retired)?;
        Ok(remove.finish(frames))
    }

    /// Where an address leads, as hardware would find it.
    pub fn translate(&self, frames: &impl TableFrames, iova: Iova) -> Option<Translation> {
        let address = iova.get();
        if address >> shift(self.top + 1) != 0 {
            return None;
        }
        let (mut frame, mut level) = (self.root, self.top);
        let mut allowed = Access::ReadWrite;
        loop {
            let word = frames.table(frame)?[index(level, address)].load(Ordering::Acquire);
            match self.format.decode(level, word) {
                Entry::Empty => return None,
                Entry::Table { frame: next, level: below, access } => {
                    // Each table is of a lower level, so that this ends (rule R5).
                    if below >= level || !is_within(address, level, below) {
                        return None;
                    }
                    allowed = both(allowed, access?)?;
                    (frame, level) = (next, below);
                }
                Entry::Leaf { start, order, access } => {
                    let offset = address & ((1 << order) - 1);
                    return Some(Translation {
                        phys: start.checked_add(offset)?,
                        access: both(allowed, access?)?,
                        page_bytes: 1 << order,
                    });
                }
            }
        }
    }

    /// Visits every page, by address.
    ///
    /// # Errors
    ///
    /// [`MapError::Foreign`] at a table that is not in the arena.
    pub fn visit(
        &self,
        frames: &impl TableFrames,
        mut visitor: impl FnMut(Leaf),
    ) -> Result<(), MapError> {
        self.visit_table(frames, self.root, self.top, 0, Access::ReadWrite, &mut visitor)
    }

    fn visit_table(
        &self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        level: u8,
        base: u64,
        allowed: Access,
        visitor: &mut impl FnMut(Leaf),
    ) -> Result<(), MapError> {
        let table = frames.table(frame).ok_or(MapError::Foreign(frame))?;
        let mut slot = 0;
        while slot < table.len() {
            let iova = base + ((slot as u64) << shift(level));
            match self.format.decode(level, table[slot].load(Ordering::Acquire)) {
                Entry::Empty => slot += 1,
                Entry::Table { frame, level: below, access } => {
                    if below < level
                        && let Some(allowed) = access.and_then(|access| both(allowed, access))
                    {
                        self.visit_table(frames, frame, below, iova, allowed, visitor)?;
                    }
                    slot += 1;
                }
                Entry::Leaf { start, order, access } => {
                    if let Some(access) = access.and_then(|access| both(allowed, access)) {
                        let (iova, bytes) = (Iova::new(iova), 1 << order);
                        visitor(Leaf { iova, start, bytes, access });
                    }
                    slot += 1 << (order - shift(level));
                }
            }
        }
        Ok(())
    }

    /// Takes the table apart: all its frames are added to `retired`. Units may still walk them.
    pub fn destroy(self, frames: &mut impl TableFrames, retired: &mut Vec<PhysAddr>) {
        self.collect(frames, self.root, self.top, retired);
    }

    fn collect(
        &self,
        frames: &impl TableFrames,
        frame: PhysAddr,
        level: u8,
        retired: &mut Vec<PhysAddr>,
    ) {
        let Some(table) = frames.table(frame) else { return };
        if level > 0 {
            for word in table {
                let entry = self.format.decode(level, word.load(Ordering::Acquire));
                if let Entry::Table { frame, level: below, .. } = entry
                    && below < level
                {
                    self.collect(frames, frame, below, retired);
                }
            }
        }
        retired.push(frame);
    }

    /// The table of level 0 that holds all of a range, if it exists.
    #[inline]
    fn lowest_table<'a>(
        &self,
        frames: &'a impl TableFrames,
        iova: u64,
        end: u64,
    ) -> Option<(PhysAddr, &'a TableFrame)> {
        if iova >> shift(1) != (end - 1) >> shift(1) || iova >> shift(self.top + 1) != 0 {
            return None;
        }
        let (mut frame, mut level) = (self.root, self.top);
        while level > 0 {
            let word = frames.table(frame)?[index(level, iova)].load(Ordering::Acquire);
            match self.format.decode(level, word) {
                Entry::Table { frame: next, level: below, .. }
                    if below < level && is_within(iova, level, below) =>
                {
                    (frame, level) = (next, below);
                }
                _ => return None,
            }
        }
        Some((frame, frames.table(frame)?))
    }

    /// The size of the smallest page that is larger than 4 KiB.
    fn smallest_large_page(&self) -> u64 {
        let large = self.format.page_sizes() & !(1 << PAGE_SHIFT);
        if large == 0 { u64::MAX } else { 1 << large.trailing_zeros() }
    }
}

/// Whether an address, which goes through an entry of a table of `level`, is within a table of level
/// `below` that the entry points to: the bits of the levels between are zero.
#[inline]
pub(super) fn is_within(address: u64, level: u8, below: u8) -> bool {
    let inside = (1 << shift(level)) - 1;
    below + 1 == level || (address & inside) >> shift(below + 1) == 0
}

/// What both allow, if that is anything.
fn both(one: Access, other: Access) -> Option<Access> {
    let read = one.may_read() && other.may_read();
    let write = one.may_write() && other.may_write();
    Access::from_permissions(read, write)
}
