//! The entries of second-stage page tables (9.8), of 3, 4 or 5 levels.

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

use super::context::AddressWidth;
use crate::field::{frame, from_frame};
use crate::table::format::{Entry, Format, PAGE_SHIFT, Permissions, SpareBits, low_bits, shift};

/// The logarithm of a 2 MiB page.
pub(super) const ORDER_2M: u32 = shift(1);

/// The logarithm of a 1 GiB page.
pub(super) const ORDER_1G: u32 = shift(2);

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
    /// Bits 60:52. Ignored by hardware in every entry, present or not: the algorithm counts here.
    #[bits(9)]
    pub count: u16,
    /// Bit 61. Ignored by hardware in every page: a mapping starts here.
    pub start: bool,
    /// Bit 62. TM, for device TLBs; reserved without.
    __: bool,
    /// Bit 63. Ignored by hardware in every page: a mapping ends here.
    pub end: bool,
}

/// The fields of an entry where they stand, for words to be put together and taken apart quickly.
impl SecondStageEntry {
    const R: u64 = Self::new().with_read(true).into_bits();
    const W: u64 = Self::new().with_write(true).into_bits();
    const PS: u64 = Self::new().with_page(true).into_bits();
    const ADDR: u64 = Self::new().with_address(PhysAddr::new(!0 << 12 & low_bits(52))).into_bits();
    const COUNT: u64 = Self::new().with_count(0x1ff).into_bits();
}

/// Second-stage tables for one kind of unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondStage {
    width: AddressWidth,
    page_sizes: u64,
    coherent: bool,
}

impl SecondStage {
    /// The sizes of pages that there can be: bit *n* for pages of two to the *n* bytes (CAP.SSLPS).
    pub const PAGE_SIZES: u64 = 1 << PAGE_SHIFT | 1 << ORDER_2M | 1 << ORDER_1G;

    /// Tables of this width, with those pages of `page_sizes` that there can be, for units that all snoop
    /// (ECAP.C) or not.
    pub const fn new(width: AddressWidth, page_sizes: u64, coherent: bool) -> Self {
        Self { width, page_sizes: page_sizes & Self::PAGE_SIZES | 1 << PAGE_SHIFT, coherent }
    }
}

impl Format for SecondStage {
    /// What may be neither read nor written is not present, and nothing else of it counts (9.8).
    const PRESENT: u64 = SecondStageEntry::R | SecondStageEntry::W;

    const SPARE: SpareBits = SpareBits {
        shift: SecondStageEntry::COUNT.trailing_zeros(),
        bits: SecondStageEntry::COUNT.count_ones(),
    };

    const START: u64 = SecondStageEntry::new().with_start(true).into_bits();
    const END: u64 = SecondStageEntry::new().with_end(true).into_bits();

    fn levels(&self) -> u8 {
        self.width.levels()
    }

    fn max_levels(&self) -> u8 {
        // A context entry fixes the width: the root does not grow.
        self.width.levels()
    }

    #[inline]
    fn page_sizes(&self) -> u64 {
        self.page_sizes
    }

    #[inline]
    fn is_coherent(&self) -> bool {
        self.coherent
    }

    #[inline]
    fn decode(&self, level: u8, word: u64) -> Entry {
        if word & Self::PRESENT == 0 {
            return Entry::Empty;
        }
        let permissions = Permissions::from_bits(word >> SecondStageEntry::R.trailing_zeros());
        let address = word & SecondStageEntry::ADDR;
        if level == 0 || word & SecondStageEntry::PS != 0 {
            let order = shift(level);
            let start = PhysAddr::new(address & !low_bits(order));
            Entry::Leaf { start, order, permissions }
        } else {
            Entry::Table { frame: PhysAddr::new(address), level: level - 1, permissions }
        }
    }

    #[inline]
    fn straight_below(&self, _level: u8, word: u64) -> PhysAddr {
        const ALL: u64 = SecondStageEntry::R | SecondStageEntry::W;
        let bits = word & (SecondStageEntry::ADDR | SecondStageEntry::PS | ALL);
        PhysAddr::new(bits.wrapping_sub(ALL))
    }

    #[inline]
    fn leaf(&self, level: u8, _order: u32, start: PhysAddr, permissions: Permissions) -> u64 {
        const { assert!(SecondStageEntry::W == SecondStageEntry::R << 1) };
        let allowed = permissions.bits() << SecondStageEntry::R.trailing_zeros();
        let page = if level > 0 { SecondStageEntry::PS } else { 0 };
        start.get() & SecondStageEntry::ADDR | page | allowed
    }

    #[inline]
    fn table(&self, _level: u8, frame: PhysAddr, _below: u8) -> u64 {
        frame.get() & SecondStageEntry::ADDR | SecondStageEntry::R | SecondStageEntry::W
    }
}

#[cfg(test)]
mod tests {
    use dma_types::Access;

    use super::*;

    const FORMAT: SecondStage = SecondStage::new(AddressWidth::Bits48, u64::MAX, true);

    #[test]
    fn entries_are_the_bits_of_the_specification() {
        let leaf = |level, start, access: Access| {
            FORMAT.leaf(level, shift(level), PhysAddr::new(start), access.into())
        };
        assert_eq!(leaf(0, 0x1_2345_6000, Access::Read), 0x1_2345_6001);
        assert_eq!(leaf(0, 0x1_2345_6000, Access::Write), 0x1_2345_6002);
        assert_eq!(leaf(0, 0x000f_ffff_ffff_f000, Access::ReadWrite), 0x000f_ffff_ffff_f003);
        assert_eq!(leaf(1, 0x1_2340_0000, Access::ReadWrite), 0x1_2340_0083);
        assert_eq!(leaf(2, 0x1_4000_0000, Access::Read), 0x1_4000_0081);
        assert_eq!(FORMAT.table(3, PhysAddr::new(0x7654_3000), 2), 0x7654_3003);
    }

    #[test]
    fn entries_are_read_as_the_specification_says() {
        let read_write = Permissions::ALL;
        assert_eq!(FORMAT.decode(0, 0), Entry::Empty);
        assert_eq!(FORMAT.decode(1, 0x1_2340_0080), Entry::Empty, "neither R nor W is not present");
        let table =
            Entry::Table { frame: PhysAddr::new(0x7654_3000), level: 2, permissions: read_write };
        assert_eq!(FORMAT.decode(3, 0x7654_3003), table);
        let start = PhysAddr::new(0x1_2340_0000);
        assert_eq!(
            FORMAT.decode(1, 0x1_2340_0083),
            Entry::Leaf { start, order: 21, permissions: read_write }
        );
        // PS is ignored in the lowest level.
        let start = PhysAddr::new(0x5000);
        let permissions = Permissions::new(false, true);
        assert_eq!(FORMAT.decode(0, 0x5082), Entry::Leaf { start, order: 12, permissions });
    }

    #[test]
    fn the_count_stands_in_bits_that_no_unit_looks_at() {
        // Bits 60:52: ignored in the tables of 9.8, and so treated by QEMU, Linux and OpenVMM.
        let SpareBits { shift: at, bits } = SecondStage::SPARE;
        assert_eq!(low_bits(bits) << at, 0x1ff0_0000_0000_0000);
        let count = 0x1ff0_0000_0000_0000;
        for word in [0, 0x5003, 0x1_2340_0083] {
            for level in [0, 1] {
                assert_eq!(FORMAT.decode(level, word | count), FORMAT.decode(level, word));
            }
        }
    }

    #[test]
    fn the_marks_stand_in_other_bits_that_no_unit_looks_at() {
        // Bits 61 and 63: ignored in the tables of 9.8, and so by QEMU (`VTD_SL_IGN_COM`), which has 62 reserved.
        let (start, end) = (SecondStage::START, SecondStage::END);
        assert_eq!((start, end), (0x2000_0000_0000_0000, 0x8000_0000_0000_0000));
        for word in [0, 0x5003, 0x1_2340_0083] {
            for level in [0, 1] {
                assert_eq!(FORMAT.decode(level, word | start | end), FORMAT.decode(level, word));
            }
        }
    }
}
