//! The entries of second-stage page tables (9.8), of 3, 4 or 5 levels.

use bitfield_struct::bitfield;
use dma_types::{Access, PhysAddr};

use super::context::AddressWidth;
use super::field::{frame, from_frame};
use crate::table::format::{Entry, Format, PAGE_SHIFT, shift};

/// The logarithm of a 2 MiB page.
const ORDER_2M: u32 = shift(1);

/// The logarithm of a 1 GiB page.
const ORDER_1G: u32 = shift(2);

/// An entry of any level: SS-PML5E, SS-PML4E, SS-PDPE, SS-PDE or SS-PTE (9.8, figures 9-37 to 9-43).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SecondStageEntry {
    /// R: may be read, bit 0.
    pub read: bool,
    /// W: may be written, bit 1.
    pub write: bool,
    /// Bits 6:2. Execution and memory types, ignored in legacy mode.
    #[bits(5)]
    __: u8,
    /// PS: the entry maps a page, bit 7. Ignored in the lowest level, where each does.
    pub page: bool,
    /// Bits 11:8. Accessed and dirty, of scalable mode; bit 11 is SNP, force snooping.
    #[bits(4)]
    __: u8,
    /// ADDR: the page, or the next table, bits 51:12.
    #[bits(40, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub address: PhysAddr,
    /// Bits 63:52. Ignored by hardware, or reserved for device TLBs.
    #[bits(12)]
    __: u16,
}

/// Second-stage tables for one kind of unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondStage {
    width: AddressWidth,
    pages_of_2m: bool,
    pages_of_1g: bool,
    coherent: bool,
}

impl SecondStage {
    /// Tables of this width, with the large pages that the unit has (CAP.SSLPS), for a unit that snoops
    /// (ECAP.C) or does not.
    pub const fn new(
        width: AddressWidth,
        pages_of_2m: bool,
        pages_of_1g: bool,
        coherent: bool,
    ) -> Self {
        Self { width, pages_of_2m, pages_of_1g, coherent }
    }

    /// Whether 2 MiB pages are used.
    pub const fn pages_of_2m(&self) -> bool {
        self.pages_of_2m
    }

    /// Whether 1 GiB pages are used.
    pub const fn pages_of_1g(&self) -> bool {
        self.pages_of_1g
    }

    /// Whether changes need not be flushed.
    pub const fn coherent(&self) -> bool {
        self.coherent
    }

    /// The size of the largest page that fits in this many bytes.
    pub fn largest_page_within(&self, bytes: u64) -> u64 {
        let within = bytes.checked_ilog2().map_or(0, |order| (2u64 << order.min(62)) - 1);
        (self.page_sizes() & within).checked_ilog2().map_or(1 << PAGE_SHIFT, |order| 1 << order)
    }
}

impl Format for SecondStage {
    fn levels(&self) -> u8 {
        self.width.levels()
    }

    fn max_levels(&self) -> u8 {
        // A context entry fixes the width: the root does not grow.
        self.width.levels()
    }

    #[inline]
    fn page_sizes(&self) -> u64 {
        1 << PAGE_SHIFT
            | u64::from(self.pages_of_2m) << ORDER_2M
            | u64::from(self.pages_of_1g) << ORDER_1G
    }

    #[inline]
    fn is_coherent(&self) -> bool {
        self.coherent
    }

    #[inline]
    fn decode(&self, level: u8, word: u64) -> Entry {
        let entry = SecondStageEntry::from_bits(word);
        let access = Access::from_permissions(entry.read(), entry.write());
        if access.is_none() {
            // What may be neither read nor written is not present (9.8).
            Entry::Empty
        } else if level == 0 || entry.page() {
            let order = shift(level);
            let inside = (1u64 << order) - 1;
            let start = PhysAddr::new(entry.address().get() & !inside);
            Entry::Leaf { start, order, access }
        } else {
            Entry::Table { frame: entry.address(), level: level - 1, access }
        }
    }

    #[inline]
    fn leaf(&self, level: u8, _order: u32, start: PhysAddr, access: Access) -> u64 {
        SecondStageEntry::new()
            .with_read(access.may_read())
            .with_write(access.may_write())
            .with_page(level > 0)
            .with_address(start)
            .into_bits()
    }

    #[inline]
    fn table(&self, _level: u8, frame: PhysAddr, _below: u8) -> u64 {
        SecondStageEntry::new().with_read(true).with_write(true).with_address(frame).into_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: SecondStage = SecondStage::new(AddressWidth::Bits48, true, true, true);

    #[test]
    fn entries_are_the_bits_of_the_specification() {
        let leaf =
            |level, start, access| FORMAT.leaf(level, shift(level), PhysAddr::new(start), access);
        assert_eq!(leaf(0, 0x1_2345_6000, Access::Read), 0x1_2345_6001);
        assert_eq!(leaf(0, 0x1_2345_6000, Access::Write), 0x1_2345_6002);
        assert_eq!(leaf(0, 0x000f_ffff_ffff_f000, Access::ReadWrite), 0x000f_ffff_ffff_f003);
        assert_eq!(leaf(1, 0x1_2340_0000, Access::ReadWrite), 0x1_2340_0083);
        assert_eq!(leaf(2, 0x1_4000_0000, Access::Read), 0x1_4000_0081);
        assert_eq!(FORMAT.table(3, PhysAddr::new(0x7654_3000), 2), 0x7654_3003);
    }

    #[test]
    fn entries_are_read_as_the_specification_says() {
        let read_write = Some(Access::ReadWrite);
        assert_eq!(FORMAT.decode(0, 0), Entry::Empty);
        assert_eq!(FORMAT.decode(1, 0x1_2340_0080), Entry::Empty, "neither R nor W is not present");
        let table =
            Entry::Table { frame: PhysAddr::new(0x7654_3000), level: 2, access: read_write };
        assert_eq!(FORMAT.decode(3, 0x7654_3003), table);
        let start = PhysAddr::new(0x1_2340_0000);
        assert_eq!(
            FORMAT.decode(1, 0x1_2340_0083),
            Entry::Leaf { start, order: 21, access: read_write }
        );
        // PS is ignored in the lowest level.
        let start = PhysAddr::new(0x5000);
        let access = Some(Access::Write);
        assert_eq!(FORMAT.decode(0, 0x5082), Entry::Leaf { start, order: 12, access });
    }

    #[test]
    fn the_largest_page_that_fits() {
        assert_eq!(FORMAT.largest_page_within(0x1000), 0x1000);
        assert_eq!(FORMAT.largest_page_within(0x1f_ffff), 0x1000);
        assert_eq!(FORMAT.largest_page_within(0x20_0000), 0x20_0000);
        assert_eq!(FORMAT.largest_page_within(u64::MAX), 0x4000_0000);
        let small = SecondStage::new(AddressWidth::Bits39, false, false, true);
        assert_eq!(small.largest_page_within(1 << 40), 0x1000);
    }
}
