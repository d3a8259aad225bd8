//! The blocks as firmware lays them out: little-endian, packed, at any address.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::acpi::sdt::SdtHeader;

/// What every IVRS table starts with.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawIvrs {
    pub(super) sdt: SdtHeader,
    pub(super) info: U32,
    reserved: U64,
}

/// What every block starts with.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawBlock {
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Bytes of the block, this head and its device entries included.
    pub(super) length: U16,
}

/// An IOMMU, type 10h, and what the richer types start with. Device entries follow.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawIvhd {
    pub(super) block: RawBlock,
    pub(super) function: U16,
    pub(super) capability: U16,
    pub(super) register_base: U64,
    pub(super) segment: U16,
    pub(super) info: U16,
    /// Features in type 10h, attributes in types 11h and 40h.
    pub(super) reported: U32,
}

/// An IOMMU, types 11h and 40h. Device entries follow.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawRichIvhd {
    pub(super) ivhd: RawIvhd,
    pub(super) features: U64,
    /// Reserved in early revisions, hence zero.
    pub(super) features2: U64,
}

/// A memory block, types 20h, 21h and 22h.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawIvmd {
    pub(super) block: RawBlock,
    pub(super) device: U16,
    /// The last device of a range.
    pub(super) auxiliary: U16,
    /// Reserved in early revisions, hence zero.
    pub(super) segment: U16,
    reserved: [u8; 6],
    pub(super) start: U64,
    pub(super) bytes: U64,
}

/// What every device entry starts with, and all of those of 4 bytes.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawEntry {
    pub(super) kind: u8,
    pub(super) device: U16,
    pub(super) settings: u8,
}

/// A device entry with an alias, types 42h and 43h.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawAlias {
    entry: RawEntry,
    reserved_before: u8,
    pub(super) alias: U16,
    reserved_after: u8,
}

/// A device entry with more settings, types 46h and 47h.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawExtended {
    entry: RawEntry,
    pub(super) extended: U32,
}

/// A device that is no PCI function, type 48h.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSpecial {
    entry: RawEntry,
    pub(super) handle: u8,
    /// The id in its requests. The one in the head is reserved.
    pub(super) source: U16,
    pub(super) variety: u8,
}

/// A device that ACPI enumerates, type F0h. Its unique id follows.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawNamed {
    entry: RawEntry,
    pub(super) hardware_id: [u8; 8],
    pub(super) compatible_id: [u8; 8],
    pub(super) uid_format: u8,
    /// Bytes of the unique id.
    pub(super) uid_length: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_specification() {
        assert_eq!((size_of::<RawIvrs>(), size_of::<RawBlock>()), (48, 4));
        assert_eq!((size_of::<RawIvhd>(), size_of::<RawRichIvhd>()), (24, 40));
        assert_eq!(size_of::<RawIvmd>(), 32);
        assert_eq!((size_of::<RawEntry>(), size_of::<RawNamed>()), (4, 22));
        assert_eq!((size_of::<RawAlias>(), size_of::<RawExtended>()), (8, 8));
        assert_eq!(size_of::<RawSpecial>(), 8);
    }
}
