//! Table frames on the heap, for tests.

extern crate std;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use dma_types::{PAGE_SIZE, PhysAddr};

use crate::platform::{TableFrame, TableFrames};

/// Where the arena pretends to be.
const BASE: u64 = 0x10_0000_0000;

/// An arena of a fixed number of frames besides the header frame. It counts, poisons what is freed, and
/// panics when a frame is freed twice.
pub(crate) struct FakeFrames {
    frames: Vec<Box<TableFrame>>,
    free: Vec<usize>,
    /// Which entries were flushed, by frame.
    pub(crate) flushed: Mutex<BTreeMap<u64, Vec<Range<usize>>>>,
}

impl FakeFrames {
    pub(crate) fn new(frames: usize) -> Self {
        let zeroed = || Box::new([const { AtomicU64::new(0) }; 512]);
        Self {
            frames: (0..=frames).map(|_| zeroed()).collect(),
            free: (1..=frames).rev().collect(),
            flushed: Mutex::default(),
        }
    }

    /// How many frames are given out.
    pub(crate) fn live(&self) -> usize {
        self.frames.len() - 1 - self.free.len()
    }

    /// Makes sure that this many can be given out.
    pub(crate) fn grant(&mut self, frames: usize) {
        while self.free.len() < frames {
            self.frames.push(Box::new([const { AtomicU64::new(0) }; 512]));
            self.free.push(self.frames.len() - 1);
        }
    }

    fn index(&self, frame: PhysAddr) -> Option<usize> {
        let offset = frame.get().checked_sub(BASE)?;
        let index = usize::try_from(offset / PAGE_SIZE).ok()?;
        (offset % PAGE_SIZE == 0 && index < self.frames.len()).then_some(index)
    }
}

impl TableFrames for FakeFrames {
    fn header_frame(&self) -> PhysAddr {
        PhysAddr::new(BASE)
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        let index = self.free.pop()?;
        for word in self.frames[index].iter() {
            word.store(0, Ordering::Relaxed);
        }
        Some(PhysAddr::new(BASE + index as u64 * PAGE_SIZE))
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        let align = frames.next_power_of_two();
        let wanted: Vec<usize> = (0..self.frames.len())
            .step_by(align)
            .map(|first| (first..first + frames).collect::<Vec<_>>())
            .find(|run| !run.is_empty() && run.iter().all(|index| self.free.contains(index)))?;
        self.free.retain(|index| !wanted.contains(index));
        for word in wanted.iter().flat_map(|index| self.frames[*index].iter()) {
            word.store(0, Ordering::Relaxed);
        }
        Some(PhysAddr::new(BASE + wanted[0] as u64 * PAGE_SIZE))
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        let index = self.index(frame).expect("a frame of this arena");
        assert!(index != 0 && !self.free.contains(&index), "{frame} was freed twice");
        for word in self.frames[index].iter() {
            word.store(0xdead_dead_dead_dead, Ordering::Relaxed);
        }
        self.free.push(index);
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.index(frame).map(|index| &*self.frames[index])
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        self.flushed.lock().unwrap().entry(frame.get()).or_default().push(entries);
    }
}
