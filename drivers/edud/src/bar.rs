//! Ways to reach a device's registers.

use alloc::boxed::Box;
use core::ptr::NonNull;

/// A device's registers, by their offset in bytes from the start of the BAR.
///
/// An access always succeeds, as it does on a bus: a device that is not there, or not any more, reads as all
/// ones and loses what is written to it. So does an offset that is past the end of the BAR or no multiple
/// of the width.
pub trait Bar {
    /// Reads 32 bits in one access.
    fn read32(&self, offset: usize) -> u32;
    /// Writes 32 bits in one access.
    fn write32(&self, offset: usize, value: u32);
    /// Reads 64 bits in one access.
    fn read64(&self, offset: usize) -> u64;
    /// Writes 64 bits in one access.
    fn write64(&self, offset: usize, value: u64);
}

/// So that a program can choose at run time how it reaches its device.
impl<B: Bar + ?Sized> Bar for Box<B> {
    fn read32(&self, offset: usize) -> u32 {
        (**self).read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        (**self).write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        (**self).read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        (**self).write64(offset, value);
    }
}

/// A BAR that is mapped in this process.
#[derive(Debug)]
pub struct MappedBar {
    start: NonNull<u8>,
    bytes: usize,
}

impl MappedBar {
    /// The BAR whose `bytes` bytes are mapped at `start`.
    ///
    /// # Safety
    ///
    /// `start` is a multiple of 8. The memory is mapped for reading and writing, uncached, and stays so for
    /// as long as the value lives; it is device memory, no part of any Rust object.
    pub const unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        Self { start, bytes }
    }

    /// Where a register of type `T` is, if it lies in the BAR and is aligned.
    fn register<T>(&self, offset: usize) -> Option<NonNull<T>> {
        if offset.checked_add(size_of::<T>())? > self.bytes {
            return None;
        }
        // SAFETY: the offset is below the length of the mapping.
        let register = unsafe { self.start.add(offset) }.cast::<T>();
        register.is_aligned().then_some(register)
    }

    fn read<T>(&self, offset: usize) -> Option<T> {
        let register = self.register::<T>(offset)?;
        // SAFETY: aligned and mapped; u32 and u64, the only types that this is called with, have no
        // invalid values.
        Some(unsafe { register.read_volatile() })
    }

    fn write<T>(&self, offset: usize, value: T) {
        if let Some(register) = self.register::<T>(offset) {
            // SAFETY: aligned and mapped for writing; what the device does then is not Rust's memory, since
            // the IOMMU keeps it to its buffers.
            unsafe { register.write_volatile(value) };
        }
    }
}

impl Bar for MappedBar {
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset).unwrap_or(u32::MAX)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(offset).unwrap_or(u64::MAX)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(offset, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_an_access_outside_the_bar_reads_ones_and_writes_nothing() {
        let mut memory = [1u64, 2];
        // SAFETY: the memory is aligned, outlives the BAR, and is not used otherwise while that lives.
        let bar = unsafe { MappedBar::new(NonNull::from(&mut memory).cast(), 16) };
        assert_eq!((bar.read64(8), bar.read32(12)), (2, 0));
        for offset in [12, 16, usize::MAX] {
            bar.write64(offset, 7);
            assert_eq!(bar.read64(offset), u64::MAX);
        }
        bar.write32(2, 7);
        assert_eq!(bar.read32(2), u32::MAX);
        bar.write32(4, 7);
        assert_eq!(bar.read64(0), 7 << 32 | 1);
    }
}
