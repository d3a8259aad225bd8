//! The arena of table frames.
//!
//! It shrinks, too: the engine frees a frame only when no unit can walk it any more, so that a chunk of free
//! frames is nobody's. The chunk with the header always stays.

use core::ops::Range;
use std::rc::Rc;

use dma_types::PhysAddr;
use iommu_engine::platform::{Segment, TableFrame, TableFrames};

use super::area::Region;
use super::memory::{Left, Memory};
use super::page_pool::PagePool;
use crate::platform::cache_lines;

/// Frames for tables.
pub struct TableArena {
    pool: PagePool,
    header: PhysAddr,
}

impl TableArena {
    /// An arena without chunks, not even for the header.
    pub fn new(memory: Rc<Memory>) -> Self {
        Self { pool: PagePool::new(memory), header: PhysAddr::default() }
    }

    /// Takes the first chunk, and its first frame for the header. `None` when there is no memory.
    pub fn begin(&mut self) -> Option<()> {
        self.header = self.pool.take_first()?.physical;
        Some(())
    }

    /// Adds a chunk of a process before this one; that of the header's region has the header. It is given back if it is not
    /// what it should be.
    pub fn inherit(&mut self, left: Left) -> Result<(), Left> {
        let has_header = left.region == Region::Header;
        let start = self.pool.inherit(left)?;
        if has_header {
            self.header = start;
            self.pool.keep(start, 1);
        }
        Ok(())
    }

    /// Whether there is a header.
    pub fn has_header(&self) -> bool {
        self.pool.find(self.header).is_some()
    }

    /// Notes that inherited frames are in use. `false` if they are not inherited, or were noted before.
    pub fn keep(&mut self, start: PhysAddr, frames: usize) -> bool {
        start == self.header && frames == 1 || self.pool.keep(start, frames)
    }

    /// What was not noted of what is inherited is free.
    pub fn settle(&mut self) {
        self.pool.settle();
    }

    /// Gives up what is inherited, the header included.
    pub fn set_aside(&mut self) {
        self.pool.set_aside();
    }

    /// Where its chunks are.
    pub fn chunks(&self) -> impl Iterator<Item = Segment> {
        self.pool.chunks()
    }

    /// How often they have changed.
    pub fn changes(&self) -> u64 {
        self.pool.changes()
    }
}

impl TableFrames for TableArena {
    fn header_frame(&self) -> PhysAddr {
        self.header
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        self.alloc_table(1)
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        self.pool.take(frames).map(|pages| pages.physical)
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        if frame != self.header {
            self.pool.give_back(frame, 1);
        }
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.pool.find(frame)
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        if let Some(words) = self.table(frame).and_then(|table| table.get(entries)) {
            cache_lines::write_back(words);
        }
    }
}
