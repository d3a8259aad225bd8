//! Which frames are in use, each by one thing.

use alloc::collections::BTreeSet;

use dma_types::{PAGE_SIZE, PhysAddr};

use super::AdoptError;
use crate::platform::TableFrames;

/// The frames that have been found to be in use, the header not among them.
pub(super) struct FrameSet {
    header: PhysAddr,
    taken: BTreeSet<u64>,
}

impl FrameSet {
    /// Those of the ledger.
    pub(super) fn new(frames: &impl TableFrames, ledger: &[PhysAddr]) -> Result<Self, AdoptError> {
        let mut set = Self { header: frames.header_frame(), taken: BTreeSet::new() };
        for frame in ledger.iter().skip(1) {
            if !set.visit(*frame) {
                return Err(AdoptError::FrameTwice(*frame));
            }
        }
        Ok(set)
    }

    /// Takes a frame. `false` if it is taken.
    pub(super) fn visit(&mut self, frame: PhysAddr) -> bool {
        frame != self.header && self.taken.insert(frame.get())
    }

    /// All of them, those side by side as one.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (PhysAddr, usize)> {
        let mut frames = self.taken.iter().copied().peekable();
        core::iter::from_fn(move || {
            let start = frames.next()?;
            let mut count = 1;
            while frames.next_if(|next| *next == start + count * PAGE_SIZE).is_some() {
                count += 1;
            }
            Some((PhysAddr::new(start), count as usize))
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::fakes::FakeFrames;

    #[test]
    fn r5_each_frame_is_taken_once_and_the_header_never() {
        let frames = FakeFrames::new(4);
        let header = frames.header_frame();
        let frame = |n: u64| PhysAddr::new(header.get() + n * PAGE_SIZE);
        let mut set = FrameSet::new(&frames, &[header, frame(2)]).unwrap_or_else(|_| panic!());
        assert!(set.visit(frame(1)) && set.visit(frame(4)));
        assert!(!set.visit(frame(2)) && !set.visit(header));
        let ranges: Vec<_> = set.ranges().collect();
        assert_eq!(ranges, [(frame(1), 2), (frame(4), 1)]);
        assert!(FrameSet::new(&frames, &[header, frame(2), frame(2)]).is_err());
    }
}
