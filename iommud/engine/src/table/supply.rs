//! The frames that an operation needs: counted first, then allocated, then used.

use alloc::vec::Vec;

use dma_types::PhysAddr;

use super::error::OutOfFrames;
use crate::platform::TableFrames;

/// Frames of zeroes that nothing points to yet.
#[derive(Debug)]
pub(super) struct Supply(Vec<PhysAddr>);

impl Supply {
    /// As many frames as asked for, or none. For units that do not snoop they are flushed.
    pub(super) fn allocate(
        frames: &mut impl TableFrames,
        count: usize,
        coherent: bool,
    ) -> Result<Self, OutOfFrames> {
        let mut supply = Self(Vec::new());
        supply.0.try_reserve_exact(count).map_err(|_| OutOfFrames)?;
        for _ in 0..count {
            let Some(frame) = frames.alloc_frame() else {
                supply.give_back(frames);
                return Err(OutOfFrames);
            };
            if !coherent {
                frames.flush_entries(frame, 0..512);
            }
            supply.0.push(frame);
        }
        Ok(supply)
    }

    /// One of them.
    pub(super) fn take(&mut self) -> Result<PhysAddr, OutOfFrames> {
        self.0.pop().ok_or(OutOfFrames)
    }

    /// Gives back what was not used.
    pub(super) fn give_back(self, frames: &mut impl TableFrames) {
        self.0.into_iter().for_each(|frame| frames.free_frame(frame));
    }
}
