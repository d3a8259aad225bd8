//! The arena of table frames.
//!
//! It shrinks, too: the engine frees a frame only when no unit can walk it any more, so that a chunk of free
//! frames is nobody's. The chunk with the header always stays.

use core::ops::Range;
use std::rc::Rc;

use dma_types::PhysAddr;
use iommu_engine::platform::{Segment, TableFrame, TableFrames};

use super::memory::Memory;
use super::page_pool::PagePool;
use crate::platform::cache_lines;

/// Frames for tables.
pub struct TableArena {
    pool: PagePool,
    header: PhysAddr,
}

impl TableArena {
    /// An arena with its first chunk, of which the first frame taken is the header. `None` when there is
    /// no memory.
    pub fn new(memory: Rc<Memory>) -> Option<Self> {
        let mut pool = PagePool::new(memory);
        let header = pool.take(1)?.physical;
        Some(Self { pool, header })
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
