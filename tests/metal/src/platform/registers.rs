//! Windows of device registers. They are mapped already, with everything else below 4 GiB; the firmware's
//! MTRRs make what is not memory there uncached.

use alloc::vec::Vec;
use core::ptr::NonNull;

use dma_types::PhysAddr;
use iommu_engine::platform::{PlatformError, RegisterWindow, Registers};

use crate::memory::layout::BUFFERS;
use crate::memory::physical;

/// The windows that were asked for.
#[derive(Debug, Default)]
pub struct Windows {
    windows: Vec<Window>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the guest has one thread.
unsafe impl Send for Window {}

impl Windows {
    /// The pointer to a `T` at this offset, or `None` past the window's end or where it is not aligned.
    fn pointer<T>(&self, window: RegisterWindow, offset: usize) -> Option<NonNull<T>> {
        let window = self.windows.get(window.0 as usize)?;
        let is_inside = offset <= window.bytes.checked_sub(size_of::<T>())?;
        // SAFETY: it is inside of the window, all of which is mapped.
        let pointer = is_inside.then(|| unsafe { window.base.add(offset) })?.cast::<T>();
        pointer.is_aligned().then_some(pointer)
    }

    fn read<T>(&self, window: RegisterWindow, offset: usize, absent: T) -> T {
        // SAFETY: the pointer is to registers, mapped and aligned. `T` is an integer.
        self.pointer(window, offset).map_or(absent, |at| unsafe { at.read_volatile() })
    }

    fn write<T>(&self, window: RegisterWindow, offset: usize, value: T) {
        if let Some(at) = self.pointer(window, offset) {
            // SAFETY: the pointer is to registers, mapped and aligned, and not to memory of ours.
            unsafe { at.write_volatile(value) };
        }
    }
}

impl Registers for Windows {
    /// Refuses what is not mapped, and the guest's own memory: a table of the firmware's that takes that
    /// for registers would have the engine write over it.
    fn map_registers(
        &mut self,
        base: PhysAddr,
        bytes: usize,
    ) -> Result<RegisterWindow, PlatformError> {
        let mapped = physical::pointer(base, bytes as u64).filter(|_| base >= BUFFERS.end());
        let window = Window { base: mapped.ok_or(PlatformError::Registers(base))?, bytes };
        let index = self.windows.iter().position(|known| *known == window).unwrap_or_else(|| {
            self.windows.push(window);
            self.windows.len() - 1
        });
        Ok(RegisterWindow(index as u32))
    }

    fn read32(&mut self, window: RegisterWindow, offset: usize) -> u32 {
        self.read(window, offset, u32::MAX)
    }

    fn write32(&mut self, window: RegisterWindow, offset: usize, value: u32) {
        self.write(window, offset, value);
    }

    fn read64(&mut self, window: RegisterWindow, offset: usize) -> u64 {
        self.read(window, offset, u64::MAX)
    }

    fn write64(&mut self, window: RegisterWindow, offset: usize, value: u64) {
        self.write(window, offset, value);
    }
}
