//! Capabilities: PCI Local Bus Specification 3.0, 6.8 (MSI); PCI Express Base Specification 5.0, 7.5.3 and
//! 7.7.8 (ACS); AMD 48882, 3.2 (the capability block of an IOMMU).

use bitfield_struct::bitfield;

/// What a PCI Express function is: the Device/Port Type field of its capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExpressKind {
    /// An endpoint.
    Endpoint = 0,
    /// A root port.
    RootPort = 4,
    /// The upstream port of a switch.
    SwitchUpstream = 5,
    /// A downstream port of a switch.
    SwitchDownstream = 6,
    /// A bridge from PCI Express to PCI.
    ToPciBridge = 7,
    /// An endpoint in the root complex.
    IntegratedEndpoint = 9,
}

/// Bits of the ACS capability and control registers.
pub mod acs {
    /// Source validation.
    pub const SOURCE_VALIDATION: u16 = 1 << 0;
    /// Translation blocking.
    pub const TRANSLATION_BLOCKING: u16 = 1 << 1;
    /// Peer-to-peer request redirect.
    pub const REQUEST_REDIRECT: u16 = 1 << 2;
    /// Peer-to-peer completion redirect.
    pub const COMPLETION_REDIRECT: u16 = 1 << 3;
    /// Upstream forwarding.
    pub const UPSTREAM_FORWARDING: u16 = 1 << 4;
    /// All that keeps functions apart: the five above.
    pub const ISOLATING: u16 = SOURCE_VALIDATION
        | TRANSLATION_BLOCKING
        | REQUEST_REDIRECT
        | COMPLETION_REDIRECT
        | UPSTREAM_FORWARDING;
}

/// MSI: the first dword of the capability, with 64-bit addresses.
#[bitfield(u32)]
pub(super) struct Msi {
    id: u8,
    next: u8,
    pub(super) enable: bool,
    #[bits(6)]
    __: u8,
    wide: bool,
    __: u8,
}

impl Msi {
    pub(super) fn new_wide() -> Self {
        Self::new().with_id(0x05).with_wide(true)
    }
}

/// PCI Express: the first dword of the capability.
#[bitfield(u32)]
pub(super) struct Express {
    id: u8,
    next: u8,
    #[bits(4)]
    version: u8,
    #[bits(4)]
    kind: u8,
    __: u8,
}

impl Express {
    pub(super) fn of(kind: ExpressKind) -> Self {
        Self::new().with_id(0x10).with_version(2).with_kind(kind as u8)
    }
}

/// An extended capability: its first dword.
#[bitfield(u32)]
pub(super) struct Extended {
    id: u16,
    #[bits(4)]
    version: u8,
    #[bits(12)]
    next: u16,
}

impl Extended {
    /// Access Control Services.
    pub(super) fn acs() -> Self {
        Self::new().with_id(0x000d).with_version(1)
    }
}

/// What an IOMMU's capability block says.
#[derive(Clone, Copy, Debug)]
pub struct IommuBlock {
    /// Where its registers are, a multiple of 16 KiB.
    pub base: u64,
    /// Whether firmware has turned the registers on there, after which the base cannot be changed.
    pub enabled: bool,
    /// IotlbSup.
    pub device_tlb: bool,
    /// NpCache.
    pub np_cache: bool,
    /// EFRSup.
    pub extended_features: bool,
    /// MsiNum.
    pub msi_number: u8,
    /// PASize.
    pub host_address_bits: u8,
    /// VASize.
    pub device_address_bits: u8,
}

/// The first dword of the block.
#[bitfield(u32)]
struct IommuHeader {
    id: u8,
    next: u8,
    #[bits(3)]
    kind: u8,
    #[bits(5)]
    revision: u8,
    device_tlb: bool,
    tunnel: bool,
    np_cache: bool,
    extended_features: bool,
    more: bool,
    #[bits(3)]
    __: u8,
}

/// Miscellaneous information register 0.
#[bitfield(u32)]
struct IommuMisc {
    #[bits(5)]
    msi_number: u8,
    /// Width of guest virtual addresses; 2 is 48 bits.
    #[bits(3)]
    guest_bits: u8,
    #[bits(7)]
    physical_bits: u8,
    #[bits(7)]
    virtual_bits: u8,
    #[bits(10)]
    __: u16,
}

/// Base address low: bit 0 turns the registers on and locks the base.
pub(super) const IOMMU_ENABLE: u32 = 1;
/// The bits of base address low that can be written while it is not locked.
pub(super) const IOMMU_BASE_LOW: u32 = 0xffff_c001;

impl IommuBlock {
    /// The dwords of the block.
    pub(super) fn dwords(&self) -> [u32; 6] {
        let header = IommuHeader::new()
            .with_id(0x0f)
            .with_kind(3)
            .with_revision(1)
            .with_device_tlb(self.device_tlb)
            .with_np_cache(self.np_cache)
            .with_extended_features(self.extended_features)
            .with_more(true);
        let misc = IommuMisc::new()
            .with_msi_number(self.msi_number & 31)
            .with_guest_bits(2)
            .with_physical_bits(self.host_address_bits & 127)
            .with_virtual_bits(self.device_address_bits & 127);
        let low = self.base as u32 | if self.enabled { IOMMU_ENABLE } else { 0 };
        [header.into_bits(), low, (self.base >> 32) as u32, 0, misc.into_bits(), 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iommus_block_reads_as_these_literal_words() {
        let block = IommuBlock {
            base: 0x1_feb8_0000,
            enabled: true,
            device_tlb: false,
            np_cache: true,
            extended_features: true,
            msi_number: 3,
            host_address_bits: 48,
            device_address_bits: 64,
        };
        let expected = [0x1c0b_000f, 0xfeb8_0001, 1, 0, 0x0020_3043, 0];
        assert_eq!(block.dwords(), expected, "{:x?}", block.dwords());
        let narrow = IommuBlock { device_address_bits: 40, ..block };
        assert_eq!(narrow.dwords()[4], 0x0014_3043);
    }

    #[test]
    fn capabilities_start_with_these_literal_words() {
        assert_eq!(Express::of(ExpressKind::RootPort).into_bits(), 0x0042_0010);
        assert_eq!(Express::of(ExpressKind::ToPciBridge).into_bits(), 0x0072_0010);
        assert_eq!(Msi::new_wide().into_bits(), 0x0080_0005);
        assert_eq!(Extended::acs().into_bits(), 0x0001_000d);
    }
}
