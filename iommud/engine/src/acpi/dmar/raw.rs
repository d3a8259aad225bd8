//! The structures as firmware lays them out: little-endian, packed, at any address.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::acpi::sdt::SdtHeader;

/// What every DMAR table starts with (8.1).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawDmar {
    pub(super) sdt: SdtHeader,
    /// N, where addresses have N + 1 bits.
    pub(super) host_address_width: u8,
    pub(super) flags: u8,
    reserved: [u8; 10],
}

/// What every remapping structure starts with (8.2).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawStructure {
    pub(super) kind: U16,
    /// Bytes of the structure, this head and its device scopes included.
    pub(super) length: U16,
}

/// A remapping unit (8.3). Device scopes follow.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawDrhd {
    structure: RawStructure,
    pub(super) flags: u8,
    /// Reserved before revision 4.0 of the specification, hence zero, which still means what it meant.
    pub(super) size: u8,
    pub(super) segment: U16,
    pub(super) register_base: U64,
}

/// A reserved memory region (8.4). Device scopes follow.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawRmrr {
    structure: RawStructure,
    reserved: U16,
    pub(super) segment: U16,
    pub(super) base: U64,
    /// The last byte of the region.
    pub(super) limit: U64,
}

/// What every device scope starts with (8.3.1). The path follows.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawScope {
    pub(super) kind: u8,
    /// Bytes of the scope, this head and its path included.
    pub(super) length: u8,
    /// Meaningful in SIDP structures alone.
    flags: u8,
    reserved: u8,
    pub(super) enumeration_id: u8,
    pub(super) start_bus: u8,
}

/// One step of a scope's path (8.3.1).
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawStep {
    pub(super) device: u8,
    pub(super) function: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_specification() {
        assert_eq!((size_of::<RawDmar>(), size_of::<RawStructure>()), (48, 4));
        assert_eq!((size_of::<RawDrhd>(), size_of::<RawRmrr>()), (16, 24));
        assert_eq!((size_of::<RawScope>(), size_of::<RawStep>()), (6, 2));
    }
}
