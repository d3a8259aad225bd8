//! Where the device table is.

use bitfield_struct::bitfield;
use dma_types::PhysAddr;

use super::file::register;
use crate::field::{frame, from_frame};

/// Device Table Base Address Register (3.4.1): the whole table, or its first segment.
///
/// Written while translation is on, it takes effect at once for what is not cached.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DeviceTableBase {
    /// Size, bits 8:0: how many 4 KiB pages, less one.
    #[bits(9)]
    pub pages_field: u16,
    #[bits(3)]
    __: u8,
    /// DevTabBase, bits 51:12.
    #[bits(40, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub table: PhysAddr,
    #[bits(12)]
    __: u16,
}
register!(DeviceTableBase: u64, 0x0000, Readable Writable);

impl DeviceTableBase {
    /// The register for a table of this many pages, 1 to 512.
    pub const fn naming(table: PhysAddr, pages: usize) -> Self {
        debug_assert!(pages >= 1 && pages <= 512);
        Self::new().with_table(table).with_pages_field((pages - 1) as u16)
    }
}

/// Device Table Segment *n* Base Address Register, *n* from 1 to 7.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct SegmentBase {
    /// Size, bits 7:0: how many 4 KiB pages, less one.
    #[bits(8)]
    pub pages_field: u8,
    #[bits(4)]
    __: u8,
    /// DevTabBase, bits 51:12.
    #[bits(40, from = frame, into = from_frame, default = PhysAddr::new(0))]
    pub table: PhysAddr,
    #[bits(12)]
    __: u16,
}

impl SegmentBase {
    /// The register for a segment of this many pages, 1 to 256.
    pub const fn naming(table: PhysAddr, pages: usize) -> Self {
        debug_assert!(pages >= 1 && pages <= 256);
        Self::new().with_table(table).with_pages_field((pages - 1) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: PhysAddr = PhysAddr::new(0x000f_edcb_a980_0000);

    #[test]
    fn a_full_table_has_512_pages() {
        let base = DeviceTableBase::naming(TABLE, 512);
        assert_eq!(base.into_bits(), 0x000f_edcb_a980_01ff);
        assert_eq!(DeviceTableBase::naming(TABLE, 64).into_bits(), 0x000f_edcb_a980_003f);
        let found = DeviceTableBase::from_bits(0xfff0_0000_1234_5e00);
        assert_eq!((found.table(), found.pages_field()), (PhysAddr::new(0x1234_5000), 0));
    }

    #[test]
    fn half_of_a_table_has_256_pages() {
        assert_eq!(SegmentBase::naming(TABLE, 256).into_bits(), 0x000f_edcb_a980_00ff);
    }
}
