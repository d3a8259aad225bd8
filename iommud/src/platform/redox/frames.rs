//! The arena of table frames: 4 MiB of contiguous memory at a time, kept until the process ends.

use core::arch::x86_64::{_mm_clflush, _mm_mfence};
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use std::rc::Rc;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{Segment, TableFrame, TableFrames};

use super::memory::Memory;
use crate::platform::frame_book::FrameBook;
use crate::platform::pieces::{LARGEST_PIECE, next_piece};

/// Bytes of a cache line on every x86 processor that has an IOMMU; CPUID.1:EBX says the same.
const CACHE_LINE: usize = 64;

/// Frames for tables.
pub struct TableArena {
    memory: Rc<Memory>,
    /// Of each chunk, where its first frame is in this process. Chunks are never unmapped: hardware may
    /// walk them until the moment the process is gone, and after.
    book: FrameBook<NonNull<TableFrame>>,
    header: PhysAddr,
    /// Where the chunks are.
    chunks: Vec<Segment>,
}

impl TableArena {
    /// An arena with its first chunk, of which the first frame taken is the header. `None` when there is
    /// no memory.
    pub fn new(memory: Rc<Memory>) -> Option<Self> {
        let mut arena = Self {
            memory,
            book: FrameBook::default(),
            header: PhysAddr::default(),
            chunks: Vec::new(),
        };
        arena.header = arena.alloc_frame()?;
        Some(arena)
    }

    /// Where its chunks are. There are only ever more.
    pub fn chunks(&self) -> &[Segment] {
        &self.chunks
    }

    /// Adds the largest chunk that there is memory for, down to one frame.
    fn grow(&mut self) -> Option<()> {
        let mut limit = LARGEST_PIECE;
        while let Some(bytes) = next_piece(LARGEST_PIECE, limit) {
            if let Ok((place, start)) = self.memory.contiguous(bytes as usize) {
                let first = place.start().cast();
                core::mem::forget(place);
                self.book.add(start, (bytes / PAGE_SIZE) as usize, first);
                self.chunks.push(Segment { start, bytes });
                return Some(());
            }
            limit = bytes / 2;
        }
        None
    }

    /// The frame with this number in the chunk whose first frame is given, both out of the book.
    fn frame(&self, (first, index): (NonNull<TableFrame>, usize)) -> &TableFrame {
        // SAFETY: the book holds only chunks that this arena mapped, for reading and writing, and never
        // unmaps, and gives no number outside the chunk. The memory is page-aligned and only ever reached
        // through these atomic words and by hardware.
        unsafe { first.add(index).as_ref() }
    }
}

impl TableFrames for TableArena {
    fn header_frame(&self) -> PhysAddr {
        self.header
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        let (frame, first, index) = match self.book.take() {
            Some(taken) => taken,
            None => {
                self.grow()?;
                self.book.take()?
            }
        };
        for word in self.frame((first, index)) {
            word.store(0, Ordering::Relaxed);
        }
        Some(frame)
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        let (start, first, index) = match self.book.take_run(frames) {
            Some(taken) => taken,
            None => {
                self.grow()?;
                self.book.take_run(frames)?
            }
        };
        for word in (index..index + frames).flat_map(|index| self.frame((first, index))) {
            word.store(0, Ordering::Relaxed);
        }
        Some(start)
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        if frame != self.header {
            self.book.give_back(frame);
        }
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.book.find(frame).map(|found| self.frame(found))
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        let Some(words) = self.table(frame).and_then(|table| table.get(entries)) else { return };
        // SAFETY: fences and flushes are in SSE2, which every x86-64 processor has, and change no memory.
        unsafe { _mm_mfence() };
        for line in words.chunks(CACHE_LINE / size_of::<u64>()) {
            // SAFETY: as above; the addresses are those of live words. Their first and last, because a
            // chunk may straddle two lines.
            unsafe {
                _mm_clflush(line.as_ptr().cast());
                _mm_clflush(line.as_ptr_range().end.sub(1).cast());
            }
        }
        // SAFETY: as above.
        unsafe { _mm_mfence() };
    }
}
