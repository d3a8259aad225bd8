//! Where the heap's memory comes from: its place in the layout, and when that is used up, what there is behind.

use core::alloc::Layout;

use metal::memory::layout::{HEAP, Range};
use metal::memory::spare::spare;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// What the heap has not taken yet.
#[derive(Debug)]
pub(crate) enum Memory {
    /// All of it.
    All,
    /// What is behind the layout.
    Spare,
    /// Nothing.
    Nothing,
}

// SAFETY: nothing here reaches for an allocator but the one that asks.
unsafe impl Source for Memory {
    fn acquire<B: Binning>(heap: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        let (next, range) = match heap.source {
            Self::All => (Self::Spare, Some(HEAP)),
            Self::Spare => (Self::Nothing, spare()),
            Self::Nothing => return Err(()),
        };
        heap.source = next;
        let Range { start, bytes } = range.ok_or(())?;
        // SAFETY: by the layout, and by what the boot loader says, this memory is mapped and nobody else's.
        unsafe { heap.claim(start.get() as *mut u8, bytes as usize) }.map(drop).ok_or(())
    }
}
