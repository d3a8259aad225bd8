//! Table frames as a good platform lends them: one arena, and a frame is a bounds check away.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{TableFrame, TableFrames};

/// Where the arena pretends to be.
pub(crate) const BASE: u64 = 0x4000_0000;

/// An arena. Its first frame is the header.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Never given back, as an arena is not.
    frames: &'static [TableFrame],
    free: Vec<usize>,
}

impl Frames {
    /// An arena of so many frames besides the header.
    pub(crate) fn new(frames: usize) -> Self {
        let zeroes = || [const { AtomicU64::new(0) }; 512];
        let frames: Vec<TableFrame> = (0..=frames).map(|_| zeroes()).collect();
        let free = (1..frames.len()).rev().collect();
        Self { frames: frames.leak(), free }
    }

    /// All frames, the header first.
    #[allow(dead_code, reason = "not every bench looks at them")]
    pub(crate) fn words(&self) -> &[TableFrame] {
        self.frames
    }
}

impl TableFrames for Frames {
    fn header_frame(&self) -> PhysAddr {
        PhysAddr::new(BASE)
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        let index = self.free.pop()?;
        self.frames[index].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Some(PhysAddr::new(BASE + index as u64 * PAGE_SIZE))
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        self.free.push(((frame.get() - BASE) / PAGE_SIZE) as usize);
    }

    fn alloc_table(&mut self, _frames: usize) -> Option<PhysAddr> {
        None
    }

    // Always, or what a frame is goes through a pointer that is looked at for null.
    #[inline(always)]
    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        // With the offset in a page on top, which makes a number that is no frame's of what is no frame.
        let index = frame.get().wrapping_sub(BASE).rotate_right(PAGE_SIZE.trailing_zeros());
        self.frames.get(index as usize)
    }

    fn flush_entries(&self, _frame: PhysAddr, _entries: Range<usize>) {}
}
