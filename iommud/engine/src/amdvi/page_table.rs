//! The entries of version 1 host page tables (2.2.3, "I/O Page Tables for Host Translations"), of 1 to 6 levels.
//!
//! The specification numbers levels from 1, the algorithm from 0: an entry of the table that the algorithm
//! calls level *n* is one of the specification's level *n* + 1, and NextLevel *n* + 1 points to it.
//!
//! # What is emitted
//!
//! Every entry that points to a table names the level just below, allows both directions and leaves the bits
//! reserved that only pages have; every page has FC set, so that a device cannot take it past the processors'
//! caches. A page as long as its entry's span has NextLevel 0, a longer one NextLevel 7. That is the common
//! ground of the specification and of both walkers of QEMU:
//!
//! - Entries that skip levels are understood and never made. QEMU up to 10.0 follows NextLevel without looking at
//!   the address bits that are skipped, so that one page would be found at many addresses; later ones count
//!   levels down by themselves. Linux makes none either.
//! - QEMU up to 10.0 gives a page the permissions of the last entry alone, where the specification takes what
//!   all of the way allows, the device table's entry included. Tables above a page therefore allow
//!   everything. It does not look at PR of the last entry either: one that is not in use allows nothing.
//! - QEMU up to 10.0 leaves out the address bits above those that the root's level translates, where hardware
//!   faults.
//! - No walker known looks at reserved bits. They are zero.
//!
//! # Coherency
//!
//! Walks snoop the processors' caches, on every unit, as long as the unit's control register has Coherent
//! set and the device's table entry has SD clear. Both must be so; nothing is flushed here.

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

use crate::field::{frame, from_frame};
use crate::table::format::{
    Entry, Format, INDEX_BITS, PAGE_SHIFT, Permissions, SpareBits, low_bits, shift,
};

/// The most levels that there are.
const MAX_LEVELS: u8 = 6;

/// How many a new table has, if the unit walks as many: they translate 39 bits.
const START_LEVELS: u8 = 3;

/// NextLevel of a page that is longer than its entry's span.
const LONG_PAGE: u8 = 7;

/// Below no table.
const NO_LEVEL: u8 = MAX_LEVELS;

/// The logarithm of the longest page that is used. The next, 512 GiB, is faulty in hardware, as Linux's list
/// of sizes says, and nothing is gained by those beyond.
const LONGEST_PAGE: u32 = 38;

/// An entry of any level: a PDE, which points to a table, or a PTE, which maps a page.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct AmdV1PageEntry {
    /// PR: the entry is in use, bit 0. If it is not, nothing else of it counts.
    pub present: bool,
    /// Bits 4:1. Ignored by hardware in every entry, in use or not: the algorithm counts here.
    #[bits(4)]
    pub count: u8,
    /// A: accessed, bit 5. Written by the unit if the device's table entry lets it.
    pub accessed: bool,
    /// D: dirty, bit 6. Written by the unit if the device's table entry lets it.
    pub dirty: bool,
    /// Bit 7. Ignored by hardware.
    __: bool,
    /// Bit 8. Ignored by hardware in every page: a mapping ends here.
    pub end: bool,
    /// NextLevel, bits 11:9: the level of the next table, from 1; or 0 for a page as long as the entry's span; or
    /// 7 for a page that is longer.
    #[bits(3)]
    pub next_level: u8,
    /// The next table, or the page, bits 51:12. With NextLevel 7 the lowest bits tell the page's length: as
    /// many ones as its logarithm is above 13, and then a zero.
    #[bits(40, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub address: PhysAddr,
    /// Bits 58:52. Reserved.
    #[bits(7)]
    __: u8,
    /// U: an attribute of answers to ATS requests, bit 59. Of pages; reserved where a table follows.
    pub untranslated: bool,
    /// FC: accesses snoop whatever the device asks for, bit 60. Of pages; reserved where a table follows.
    pub force_coherent: bool,
    /// IR: may be read, bit 61.
    pub read: bool,
    /// IW: may be written, bit 62.
    pub write: bool,
    /// Bit 63. Ignored by hardware in every page: a mapping starts here.
    pub start: bool,
}

/// The fields of an entry where they stand, for words to be put together and taken apart quickly.
impl AmdV1PageEntry {
    const PR: u64 = Self::new().with_present(true).into_bits();
    const COUNT: u64 = Self::new().with_count(0xf).into_bits();
    const NEXT: u64 = Self::new().with_next_level(LONG_PAGE).into_bits();
    const ADDR: u64 = Self::new().with_address(PhysAddr::new(!0 << 12 & low_bits(52))).into_bits();
    const FC: u64 = Self::new().with_force_coherent(true).into_bits();
    const IR: u64 = Self::new().with_read(true).into_bits();
    const IW: u64 = Self::new().with_write(true).into_bits();

    /// The value of NextLevel, where it stands.
    const fn next(level: u8) -> u64 {
        (level as u64) << Self::NEXT.trailing_zeros()
    }
}

/// Version 1 host tables for one kind of unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmdV1 {
    max_levels: u8,
    page_sizes: u64,
}

impl AmdV1 {
    /// The sizes of pages that there can be, bit *n* for pages of two to the *n* bytes: every one from 4 KiB to
    /// 256 GiB.
    pub const PAGE_SIZES: u64 = low_bits(LONGEST_PAGE + 1) & !low_bits(PAGE_SHIFT);

    /// How many levels translate this many bits of address, if there are as many.
    pub const fn levels_for(address_bits: u8) -> u8 {
        (address_bits as u32).saturating_sub(PAGE_SHIFT).div_ceil(INDEX_BITS) as u8
    }

    /// Tables that start with 3 levels and grow to as many as the unit walks (1 to 6; the extended features'
    /// HATS says), with those pages of `page_sizes` that there can be.
    pub fn new(max_levels: u8, page_sizes: u64) -> Self {
        Self {
            max_levels: max_levels.clamp(1, MAX_LEVELS),
            page_sizes: page_sizes & Self::PAGE_SIZES | 1 << PAGE_SHIFT,
        }
    }
}

impl Format for AmdV1 {
    const SKIPS_LEVELS: bool = true;
    const MAKES_SKIPS: bool = false;

    const PRESENT: u64 = AmdV1PageEntry::PR;

    const SPARE: SpareBits = SpareBits {
        shift: AmdV1PageEntry::COUNT.trailing_zeros(),
        bits: AmdV1PageEntry::COUNT.count_ones(),
    };

    const START: u64 = AmdV1PageEntry::new().with_start(true).into_bits();
    const END: u64 = AmdV1PageEntry::new().with_end(true).into_bits();

    fn levels(&self) -> u8 {
        self.max_levels.min(START_LEVELS)
    }

    fn max_levels(&self) -> u8 {
        self.max_levels
    }

    #[inline]
    fn page_sizes(&self) -> u64 {
        self.page_sizes
    }

    #[inline]
    fn is_coherent(&self) -> bool {
        true
    }

    #[inline]
    fn decode(&self, level: u8, word: u64) -> Entry {
        let permissions = Permissions::from_bits(word >> AmdV1PageEntry::IR.trailing_zeros());
        let address = word & AmdV1PageEntry::ADDR;
        let page = |order| {
            let start = PhysAddr::new(address & !low_bits(order));
            Entry::Leaf { start, order, permissions }
        };
        if word & (AmdV1PageEntry::PR | AmdV1PageEntry::NEXT) == AmdV1PageEntry::PR
            && shift(level) <= Self::ADDRESS_BITS
        {
            return page(shift(level));
        }
        if word & AmdV1PageEntry::PR == 0 {
            return Entry::Empty;
        }
        let table = |level| Entry::Table { frame: PhysAddr::new(address), level, permissions };
        match (word & AmdV1PageEntry::NEXT) >> AmdV1PageEntry::NEXT.trailing_zeros() {
            7 => {
                let order = (address | low_bits(PAGE_SHIFT)).trailing_ones() + 1;
                let lengths = shift(level)..shift(level + 1).min(Self::ADDRESS_BITS + 1);
                if lengths.contains(&order) { page(order) } else { table(NO_LEVEL) }
            }
            // A page of a length that there is not.
            0 => table(NO_LEVEL),
            next => table(next as u8 - 1),
        }
    }

    #[inline]
    fn straight_below(&self, level: u8, word: u64) -> PhysAddr {
        const ALL: u64 = AmdV1PageEntry::PR | AmdV1PageEntry::IR | AmdV1PageEntry::IW;
        // The specification gives the level below the number that this one has here.
        let expected = ALL | AmdV1PageEntry::next(level);
        let bits = word & (AmdV1PageEntry::ADDR | AmdV1PageEntry::NEXT | ALL);
        PhysAddr::new(bits.wrapping_sub(expected))
    }

    #[inline]
    fn leaf(&self, level: u8, order: u32, start: PhysAddr, permissions: Permissions) -> u64 {
        const { assert!(AmdV1PageEntry::IW == AmdV1PageEntry::IR << 1) };
        let allowed = permissions.bits() << AmdV1PageEntry::IR.trailing_zeros();
        let length = if order == shift(level) {
            AmdV1PageEntry::next(0)
        } else {
            AmdV1PageEntry::next(LONG_PAGE) | low_bits(order - 1) & AmdV1PageEntry::ADDR
        };
        let address = start.get() & AmdV1PageEntry::ADDR;
        AmdV1PageEntry::PR | AmdV1PageEntry::FC | address | length | allowed
    }

    #[inline]
    fn table(&self, _level: u8, frame: PhysAddr, below: u8) -> u64 {
        let address = frame.get() & AmdV1PageEntry::ADDR;
        let allowed = AmdV1PageEntry::IR | AmdV1PageEntry::IW;
        AmdV1PageEntry::PR | AmdV1PageEntry::next(below + 1) | address | allowed
    }
}

#[cfg(test)]
mod tests {
    use dma_types::Access;

    use super::*;

    fn format() -> AmdV1 {
        AmdV1::new(6, u64::MAX)
    }

    #[test]
    fn entries_are_the_bits_of_the_specification() {
        let page = |order, start, access: Access| {
            let level = ((order - 12) / 9) as u8;
            format().leaf(level, order, PhysAddr::new(start), access.into())
        };
        // PR, FC, IR and IW with NextLevel 0.
        assert_eq!(page(12, 0x1_2345_6000, Access::Read), 0x3000_0001_2345_6001);
        assert_eq!(page(12, 0x1_2345_6000, Access::Write), 0x5000_0001_2345_6001);
        assert_eq!(page(12, 0x000f_ffff_ffff_f000, Access::ReadWrite), 0x700f_ffff_ffff_f001);
        assert_eq!(page(21, 0x1_2340_0000, Access::ReadWrite), 0x7000_0001_2340_0001);
        assert_eq!(page(30, 0x1_4000_0000, Access::Read), 0x3000_0001_4000_0001);
        // With NextLevel 7: 8, 16 and 64 KiB, 1, 4 and 512 MiB, 256 GiB.
        assert_eq!(page(13, 0x1234_6000, Access::ReadWrite), 0x7000_0000_1234_6e01);
        assert_eq!(page(14, 0x1234_4000, Access::ReadWrite), 0x7000_0000_1234_5e01);
        assert_eq!(page(16, 0x1234_0000, Access::ReadWrite), 0x7000_0000_1234_7e01);
        assert_eq!(page(20, 0x1230_0000, Access::ReadWrite), 0x7000_0000_1237_fe01);
        assert_eq!(page(22, 0x1240_0000, Access::ReadWrite), 0x7000_0000_125f_fe01);
        assert_eq!(page(29, 0x6000_0000, Access::ReadWrite), 0x7000_0000_6fff_fe01);
        assert_eq!(page(38, 0x40_0000_0000, Access::ReadWrite), 0x7000_005f_ffff_fe01);
        // Tables of the specification's levels 1, 3 and 5.
        assert_eq!(format().table(1, PhysAddr::new(0x7654_3000), 0), 0x6000_0000_7654_3201);
        assert_eq!(format().table(3, PhysAddr::new(0x7654_3000), 2), 0x6000_0000_7654_3601);
        assert_eq!(format().table(5, PhysAddr::new(0x7654_3000), 4), 0x6000_0000_7654_3a01);
    }

    #[test]
    fn entries_are_read_as_the_specification_says() {
        let permissions = Permissions::ALL;
        assert_eq!(format().decode(0, 0), Entry::Empty);
        assert_eq!(format().decode(2, 0x7000_0001_2340_0000), Entry::Empty, "PR is clear");
        let frame = PhysAddr::new(0x7654_3000);
        for (word, level) in [(0x6000_0000_7654_3201, 0), (0x6000_0000_7654_3601, 2)] {
            let table = Entry::Table { frame, level, permissions };
            assert_eq!(format().decode(3, word), table);
        }
        for (level, word, start, order) in [
            (0, 0x7000_0000_0000_5001, 0x5000, 12),
            (0, 0x7000_0000_0000_6e01, 0x6000, 13),
            (0, 0x7000_0000_1237_fe01, 0x1230_0000, 20),
            (1, 0x7000_0001_2340_0001, 0x1_2340_0000, 21),
            (1, 0x7000_0000_125f_fe01, 0x1240_0000, 22),
            (2, 0x7000_0001_4000_0001, 0x1_4000_0000, 30),
            (3, 0x7000_0080_0000_0001, 0x80_0000_0000, 39),
        ] {
            let start = PhysAddr::new(start);
            assert_eq!(format().decode(level, word), Entry::Leaf { start, order, permissions });
        }
        // Whatever is in the bits that are ignored, and U.
        let start = PhysAddr::new(0x5000);
        let permissions = Permissions::new(false, true);
        let leaf = Entry::Leaf { start, order: 12, permissions };
        assert_eq!(format().decode(0, 0xd800_0000_0000_51ff), leaf);
        let nothing = Entry::Leaf { start, order: 12, permissions: Permissions::new(false, false) };
        assert_eq!(format().decode(0, 0x5001), nothing, "it is in use, and allows nothing");
    }

    #[test]
    fn the_count_stands_in_bits_that_no_unit_looks_at() {
        // Bits 4:1: ignored in every entry of 2.2.3, and not looked at by QEMU, Linux or OpenVMM.
        let SpareBits { shift: at, bits } = AmdV1::SPARE;
        assert_eq!(low_bits(bits) << at, 0x1e);
        for word in [0, 0x7000_0000_0000_5001, 0x7000_0000_1237_fe01, 0x6000_0000_7654_3201] {
            for level in [0, 1, 2] {
                assert_eq!(format().decode(level, word | 0x1e), format().decode(level, word));
            }
        }
    }

    #[test]
    fn the_marks_stand_in_other_bits_that_no_unit_looks_at() {
        // Bits 8 and 63: ignored in every entry of 2.2.3, and not looked at by QEMU, Linux or OpenVMM.
        let (start, end) = (AmdV1::START, AmdV1::END);
        assert_eq!((start, end), (1 << 63, 1 << 8));
        for word in [0, 0x7000_0000_0000_5001, 0x7000_0000_1237_fe01] {
            for level in [0, 1] {
                let marked = format().decode(level, word | start | end);
                assert_eq!(marked, format().decode(level, word));
            }
        }
    }

    #[test]
    fn fields_stand_where_the_specification_has_them() {
        let entry = AmdV1PageEntry::from_bits(0x7000_0001_2345_6e03);
        assert!(entry.present() && entry.force_coherent() && entry.read() && entry.write());
        assert_eq!((entry.next_level(), entry.count()), (7, 1));
        assert_eq!(entry.address(), PhysAddr::new(0x1_2345_6000));
        let others = AmdV1PageEntry::new().with_accessed(true).with_dirty(true);
        assert_eq!(others.with_untranslated(true).into_bits(), 0x0800_0000_0000_0060);
    }

    #[test]
    fn tables_start_with_three_levels_or_what_there_are() {
        let levels = |most| (AmdV1::new(most, 0).levels(), AmdV1::new(most, 0).max_levels());
        assert_eq!([levels(0), levels(2), levels(4)], [(1, 1), (2, 2), (3, 4)]);
        assert_eq!(levels(200), (3, 6));
        assert_eq!(AmdV1::new(4, 0).page_sizes(), 0x1000);
        assert_eq!(AmdV1::new(4, 0x4020_1000).page_sizes(), 0x4020_1000);
        assert_eq!(AmdV1::new(4, u64::MAX).page_sizes(), 0x7f_ffff_f000);
    }
}
