//! What is asked of the allocator, and the addresses that no device may be given.

use core::fmt;

use dma_types::{Iova, PAGE_SIZE};

/// The widest I/O address space there is: 57 bits, what five levels of tables translate
/// (VT-d spec 9.3, context-entry AW = 011b).
pub(super) const WIDEST_SPACE_BITS: u32 = 57;

/// A piece of an I/O address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IovaRange {
    /// Its first address.
    pub start: Iova,
    /// Its length in bytes.
    pub bytes: u64,
}

impl IovaRange {
    /// The range of `bytes` bytes at `start`.
    pub const fn new(start: Iova, bytes: u64) -> Self {
        Self { start, bytes }
    }

    /// Its last address, or `None` when it is empty or runs past the end of 64 bits.
    pub const fn last(self) -> Option<Iova> {
        match self.bytes.checked_sub(1) {
            Some(rest) => self.start.checked_add(rest),
            None => None,
        }
    }
}

impl fmt::Display for IovaRange {
    /// `0xfee00000..=0xfeefffff`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last() {
            Some(last) => write!(f, "{}..={last}", self.start),
            None => write!(f, "{} and {:#x} bytes", self.start, self.bytes),
        }
    }
}

/// Where x86 takes a write for an interrupt: 0xFEE0_0000 to 0xFEEF_FFFF.
///
/// A device's write there becomes a message to a local APIC and is never translated, whatever the tables
/// say (VT-d spec, "Handling Requests to Interrupt Address Range": 3.14 in revision 3.3; AMD 48882, table
/// "Special Address Controls"), so a buffer there would lose what the device writes, and raise interrupts.
pub const INTERRUPT_RANGE: IovaRange = IovaRange::new(Iova::new(0xfee0_0000), 0x10_0000);

/// What HyperTransport keeps for itself: 0xFD_0000_0000 to 0xFF_FFFF_FFFF.
///
/// On AMD's machines requests to most of it are interrupts, configuration cycles and system management, which an
/// IOMMU does not translate (AMD 48882, table "Special Address Controls (GPA)"; Linux reserves the same for
/// devices behind AMD's units).
pub const HYPERTRANSPORT_RANGE: IovaRange =
    IovaRange::new(Iova::new(0xfd_0000_0000), 0x3_0000_0000);

/// The first page, which stays unmapped so that a device programmed with no address faults.
///
/// No specification asks for it. But zero is what a register holds that a driver forgot to write, and many
/// devices take a zero address for none; Linux too starts its I/O address spaces at the second page.
pub const PAGE_ZERO: IovaRange = IovaRange::new(Iova::new(0), PAGE_SIZE);

/// A request for addresses anywhere.
///
/// Every allocation that [`IovaAllocator::alloc`](super::IovaAllocator::alloc) makes is followed by one
/// guard page, which is not part of `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IovaRequest {
    /// How many bytes: a multiple of 4096, not zero.
    pub bytes: u64,
    /// What the address must be a multiple of: a power of two, 4096 or more. For 2 MiB and more, ask
    /// for the largest page that fits, so that large pages can be used.
    pub align: u64,
    /// The lowest address that may be used.
    pub first: Iova,
    /// The highest address that may be used: the device's DMA mask.
    pub limit: Iova,
}

impl IovaRequest {
    /// A request for `bytes` at any page of the space.
    pub const fn new(bytes: u64) -> Self {
        Self { bytes, align: PAGE_SIZE, first: Iova::new(0), limit: Iova::new(u64::MAX) }
    }

    /// The same request, at a multiple of `align`.
    pub const fn aligned(self, align: u64) -> Self {
        Self { align, ..self }
    }

    /// The same request, no lower than `first`.
    pub const fn from(self, first: Iova) -> Self {
        Self { first, ..self }
    }

    /// The same request, no higher than `limit`.
    pub const fn below(self, limit: Iova) -> Self {
        Self { limit, ..self }
    }
}

/// Whether an allocation at a chosen address keeps the page after it unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// No guard: what follows may be allocated. For fixed windows that lie side by side.
    None,
    /// One page, as after every allocation whose address was not chosen. For a restarted daemon that
    /// takes over what its predecessor gave out.
    Page,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn ranges_print_with_both_ends() {
        assert_eq!(INTERRUPT_RANGE.to_string(), "0xfee00000..=0xfeefffff");
        assert_eq!(HYPERTRANSPORT_RANGE.to_string(), "0xfd00000000..=0xffffffffff");
        assert_eq!(PAGE_ZERO.to_string(), "0x0..=0xfff");
    }

    #[test]
    fn r5_a_range_without_a_last_address_has_none() {
        assert_eq!(IovaRange::new(Iova::new(4096), 0).last(), None);
        assert_eq!(IovaRange::new(Iova::new(4096), u64::MAX).last(), None);
        assert_eq!(IovaRange::new(Iova::new(1), u64::MAX).last(), Some(Iova::new(u64::MAX)));
    }
}
