//! Device memory by the memory scheme, mapped uncached.

use core::ptr::NonNull;
use std::rc::Rc;

use dma_types::PhysAddr;

use super::memory::{Memory, Place};
use crate::platform::register_windows::{self, MapRegisters};

/// All the windows that were asked for.
pub type RegisterWindows = register_windows::RegisterWindows<Rc<Memory>>;

// SAFETY: a place is a mapping of that length for reading and writing, which ends when it is dropped; the kernel refuses
// what is RAM.
unsafe impl MapRegisters for Rc<Memory> {
    type Pages = Place;

    fn map(&self, base: PhysAddr, bytes: usize) -> Option<Place> {
        self.registers(base, bytes).ok()
    }

    fn start(pages: &Place) -> NonNull<u8> {
        pages.start()
    }
}
