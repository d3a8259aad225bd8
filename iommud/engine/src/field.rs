//! Addresses as hardware fields hold them: without the twelve bits that are always zero.

use dma_types::{Iova, PAGE_SIZE, PhysAddr};

/// Bits 63:12 of an address stand in a field of 52 bits.
const PAGE_BITS: u32 = PAGE_SIZE.trailing_zeros();

/// The frame that a field points to.
pub(crate) const fn frame(field: u64) -> PhysAddr {
    PhysAddr::new(field << PAGE_BITS)
}

/// The field that points to a frame. Its address is a multiple of 4096; what is below is lost.
pub(crate) const fn from_frame(frame: PhysAddr) -> u64 {
    debug_assert!(frame.is_aligned(PAGE_SIZE));
    frame.get() >> PAGE_BITS
}

/// The I/O page that a field names.
#[inline]
pub(crate) const fn page(field: u64) -> Iova {
    Iova::new(field << PAGE_BITS)
}

/// The field that names the I/O page of this address.
pub(crate) const fn from_page(address: Iova) -> u64 {
    address.get() >> PAGE_BITS
}
