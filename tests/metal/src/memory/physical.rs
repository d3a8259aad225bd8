//! Memory by physical address, as far as it is mapped to itself.

use alloc::vec::Vec;
use core::ptr::NonNull;

use dma_types::{PAGE_SIZE, PhysAddr};

use super::layout::IDENTITY;

/// The pointer to `bytes` bytes at `address`, or `None` where that is not all mapped, or is in page zero.
pub fn pointer(address: PhysAddr, bytes: u64) -> Option<NonNull<u8>> {
    let mapped = IDENTITY.holds(address, bytes) && address.get() >= PAGE_SIZE;
    if mapped { NonNull::new(address.get() as *mut u8) } else { None }
}

/// A copy of `bytes` bytes at `address`, or `None` where that is not all mapped.
///
/// What else uses this memory may be changing it meanwhile.
pub fn copy(address: PhysAddr, bytes: usize) -> Option<Vec<u8>> {
    let pointer = pointer(address, bytes as u64)?;
    // SAFETY: the bytes are mapped.
    Some(unsafe { read(pointer, bytes) })
}

/// The same before page zero is taken away: the boot loader leaves some of its words there.
///
/// # Safety
///
/// Page zero is mapped.
pub unsafe fn copy_at_start(address: PhysAddr, bytes: usize) -> Option<Vec<u8>> {
    let pointer = NonNull::new(address.get() as *mut u8)?;
    // SAFETY: as the caller says, and everything else in this range is mapped for good.
    IDENTITY.holds(address, bytes as u64).then(|| unsafe { read(pointer, bytes) })
}

/// # Safety
///
/// The bytes are mapped.
unsafe fn read(pointer: NonNull<u8>, bytes: usize) -> Vec<u8> {
    // SAFETY: as the caller says. Volatile, since a device may write them.
    (0..bytes).map(|at| unsafe { pointer.add(at).read_volatile() }).collect()
}
