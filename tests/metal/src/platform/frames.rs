//! Frames for tables that hardware walks.

use alloc::vec;
use alloc::vec::Vec;
use core::arch::x86_64::{_mm_clflush, _mm_mfence};
use core::ops;
use core::sync::atomic::Ordering;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{TableFrame, TableFrames};

use crate::memory::layout::Range;

/// What a freed frame is filled with. Whoever still walks it finds entries that are present and point far
/// outside of memory, which shows.
const FREED: u64 = 0xdead_dead_dead_dead | 0b11;

/// How many entries share a cache line.
const ENTRIES_PER_LINE: usize = 64 / 8;

/// The frames of one range of memory, the first of them the header frame.
#[derive(Debug)]
pub struct Frames {
    place: Range,
    /// The frames that nobody holds. The last one freed is the next given out: nothing shows sooner that a
    /// frame was freed too early.
    free: Vec<usize>,
    held: Vec<bool>,
}

impl Frames {
    /// The frames of this range, all free but the first.
    ///
    /// # Safety
    ///
    /// The range is memory, mapped to itself, and nobody else's.
    pub unsafe fn new(place: Range) -> Self {
        let count = (place.bytes / PAGE_SIZE) as usize;
        let frames = Self { place, free: (1..count).rev().collect(), held: vec![false; count] };
        frames.fill(frames.header_frame(), 0);
        frames
    }

    /// How many frames are held, the header frame not counted.
    pub fn in_use(&self) -> usize {
        self.held.iter().filter(|held| **held).count()
    }

    /// Takes every frame back: whoever held them is gone, and no unit walks any of them.
    pub fn take_all_back(&mut self) {
        for index in 0..self.held.len() {
            if self.held[index] {
                self.free_frame(self.address(index));
            }
        }
    }

    fn address(&self, index: usize) -> PhysAddr {
        PhysAddr::new(self.place.start.get() + index as u64 * PAGE_SIZE)
    }

    fn fill(&self, frame: PhysAddr, value: u64) {
        let Some(table) = self.table(frame) else { return };
        // By lines, so that counting words does not cost more than storing them.
        for line in table.as_chunks::<ENTRIES_PER_LINE>().0 {
            line.iter().for_each(|word| word.store(value, Ordering::Relaxed));
        }
    }
}

impl TableFrames for Frames {
    fn header_frame(&self) -> PhysAddr {
        self.place.start
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        let index = self.free.pop()?;
        self.held[index] = true;
        let frame = self.address(index);
        self.fill(frame, 0);
        Some(frame)
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        let align = frames.checked_next_power_of_two()? as u64 * PAGE_SIZE;
        let skipped =
            self.place.start.get().checked_next_multiple_of(align)? - self.place.start.get();
        let first = (skipped / PAGE_SIZE) as usize;
        let last = self.held.len().checked_sub(frames.max(1))?;
        // The header frame is not among those that are held, and not free either.
        let free = |index: usize| index != 0 && !self.held[index];
        let start = (first..=last)
            .step_by((align / PAGE_SIZE) as usize)
            .find(|&start| frames > 0 && (start..start + frames).all(free))?;
        let run = start..start + frames;
        self.held[run.clone()].fill(true);
        self.free.retain(|index| !run.contains(index));
        run.for_each(|index| self.fill(self.address(index), 0));
        Some(self.address(start))
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        assert!(self.table(frame).is_some(), "{frame} is freed, which is no table frame");
        let index = ((frame.get() - self.place.start.get()) / PAGE_SIZE) as usize;
        assert!(
            core::mem::take(&mut self.held[index]),
            "table frame {frame} is freed, which is free"
        );
        self.fill(frame, FREED);
        self.free.push(index);
    }

    #[inline(always)]
    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        let offset = frame.get().wrapping_sub(self.place.start.get());
        // With the offset in a page on top, which makes a number beyond all frames of what is none.
        let number = offset.rotate_right(PAGE_SIZE.trailing_zeros());
        let ours = number < self.held.len() as u64;
        // SAFETY: the frame is mapped to itself, belongs to us and is never anything but atomic words.
        ours.then(|| unsafe { &*(frame.get() as *const TableFrame) })
    }

    #[inline]
    fn flush_entries(&self, frame: PhysAddr, entries: ops::Range<usize>) {
        let lines = entries.start / ENTRIES_PER_LINE..entries.end.div_ceil(ENTRIES_PER_LINE);
        let table = self.table(frame).map(|table| table.as_chunks::<ENTRIES_PER_LINE>().0);
        let Some(lines) = table.and_then(|table| table.get(lines)) else { return };
        // SAFETY: every x86-64 processor has these instructions, and they change no memory.
        unsafe { _mm_mfence() };
        for line in lines {
            // SAFETY: as above. A line is flushed whole, whichever of its bytes is named.
            unsafe { _mm_clflush(line.as_ptr().cast::<u8>()) };
        }
        // SAFETY: as above.
        unsafe { _mm_mfence() };
    }
}
