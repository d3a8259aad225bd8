//! Where the device's registers are in this process.

use core::ptr::NonNull;

use virtio_drivers::PhysAddr;

use crate::extent::Extent;

/// A range of device registers that is mapped in this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    /// What the device's BAR says of where it is.
    pub(super) physical: PhysAddr,
    /// Where it is mapped.
    pub(super) memory: NonNull<u8>,
    /// How long it is.
    pub(super) bytes: usize,
}

// SAFETY: it is a place in this process, which no thread owns; what is done there is up to whoever is given a piece.
unsafe impl Send for Registers {}

impl Registers {
    /// The place of a piece, if the whole of it is in here.
    pub(super) fn find(&self, physical: PhysAddr, bytes: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(physical.checked_sub(self.physical)?).ok()?;
        // SAFETY: it is one mapping, of that length.
        unsafe { Extent::new(self.memory, self.bytes) }.place(offset, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_only_what_lies_in_the_range_whole_is_found() {
        let mut memory = [0u8; 64];
        let memory = NonNull::from(&mut memory).cast();
        let registers = Registers { physical: 0x1000, memory, bytes: 64 };
        assert_eq!(registers.find(0x1000, 64), Some(memory));
        // SAFETY: it is in the array.
        assert_eq!(registers.find(0x103f, 1), Some(unsafe { memory.add(63) }));
        for (physical, bytes) in
            [(0xfff, 1), (0x1000, 65), (0x1040, 1), (0x1001, usize::MAX), (u64::MAX, 1)]
        {
            assert_eq!(registers.find(physical, bytes), None, "{physical:#x} {bytes}");
        }
    }
}
