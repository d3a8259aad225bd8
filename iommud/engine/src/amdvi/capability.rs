//! The unit's capability in the configuration space of its PCI function (3.2).
//!
//! Only what the unit itself needs is read and written; the function's mastering and its interrupts are
//! [`interrupt`](super::interrupt)'s. The range register is not read; firmware's table says more of which devices the unit has.

use bitfield_struct::bitfield;
use dma_types::{PciAddress, PhysAddr};

use super::probe::UnitRefusal;
use crate::platform::ConfigSpace;

/// Where capabilities start in configuration space, after the header.
const FIRST_CAPABILITY: u16 = 0x40;

/// The bytes of the capability's registers that every unit has.
const CAPABILITY_BYTES: u16 = 0x14;

/// The bytes of configuration space in which capabilities are.
const CAPABILITY_SPACE: u16 = 0x100;

/// Capability Header.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CapabilityHeader {
    /// CapId, bits 7:0: 0Fh, a secure device.
    #[bits(access = RO)]
    pub id: u8,
    /// CapPtr, bits 15:8: the next capability.
    #[bits(access = RO)]
    pub next: u8,
    /// CapType, bits 18:16: 3, an IOMMU.
    #[bits(3, access = RO)]
    pub kind: u8,
    /// CapRev, bits 23:19.
    #[bits(5, access = RO)]
    pub revision: u8,
    /// IotlbSup, bit 24: the unit serves devices that translate by themselves.
    #[bits(access = RO)]
    pub device_tlbs: bool,
    /// HtTunnel, bit 25: it translates what comes through a HyperTransport tunnel.
    #[bits(access = RO)]
    pub tunnel: bool,
    /// NpCache, bit 26: it keeps entries that are not present, too. Only virtual units do.
    #[bits(access = RO)]
    pub caches_absent: bool,
    /// EFRSup, bit 27: it has an extended feature register.
    #[bits(access = RO)]
    pub extended_features: bool,
    /// CapExt, bit 28: the capability has another register at its end.
    #[bits(access = RO)]
    pub extended: bool,
    #[bits(3)]
    __: u8,
}

impl CapabilityHeader {
    /// CapId of secure devices.
    const SECURE_DEVICE: u8 = 0x0f;
    /// CapType of an IOMMU.
    const IOMMU: u8 = 0b011;

    /// Whether this is the header of an IOMMU's capability.
    pub const fn is_iommu(self) -> bool {
        self.id() == Self::SECURE_DEVICE && self.kind() == Self::IOMMU
    }
}

/// Base Address Low and High: where the unit's registers are.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RegisterBase {
    /// Enable, bit 0: the registers answer there. Once set, the register cannot be changed until reset.
    pub enabled: bool,
    #[bits(13)]
    __: u16,
    /// Base Address, bits 63:14.
    #[bits(50, from = base, into = from_base, default = PhysAddr::new(0))]
    pub base: PhysAddr,
}

/// Registers are aligned to 16 KiB, the size of those that every unit has.
const BASE_SHIFT: u32 = 14;

const fn base(field: u64) -> PhysAddr {
    PhysAddr::new(field << BASE_SHIFT)
}

const fn from_base(address: PhysAddr) -> u64 {
    debug_assert!(address.is_aligned(1 << BASE_SHIFT));
    address.get() >> BASE_SHIFT
}

/// Miscellaneous Information Register 0.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Miscellaneous {
    /// MsiNum, bits 4:0: which of the function's interrupts is for events.
    #[bits(5, access = RO)]
    pub event_interrupt: u8,
    /// GVAsize, bits 7:5.
    #[bits(3, access = RO)]
    pub guest_address_size: u8,
    /// PAsize, bits 14:8: how many bits a physical address has.
    #[bits(7, access = RO)]
    pub physical_bits: u8,
    /// VAsize, bits 21:15: how many bits of an I/O address are translated.
    #[bits(7, access = RO)]
    pub virtual_bits: u8,
    /// HtAtsResv, bit 22: devices that translate by themselves get no addresses in HyperTransport's range.
    #[bits(access = RO)]
    pub ats_reserved: bool,
    #[bits(4)]
    __: u8,
    /// MsiNumPPR, bits 31:27: which interrupt is for page requests.
    #[bits(5, access = RO)]
    pub page_request_interrupt: u8,
}

/// A unit's capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What the unit can do.
    pub header: CapabilityHeader,
    /// Where its registers are.
    pub registers: RegisterBase,
    /// More of what it can do.
    pub miscellaneous: Miscellaneous,
}

impl Capability {
    /// Reads the capability at this place of a function's configuration space.
    ///
    /// # Errors
    ///
    /// [`UnitRefusal::NoCapability`] if there is none of an IOMMU.
    pub fn read(
        platform: &mut impl ConfigSpace,
        function: PciAddress,
        offset: u16,
    ) -> Result<Self, UnitRefusal> {
        let none = UnitRefusal::NoCapability { offset };
        let places = FIRST_CAPABILITY..=CAPABILITY_SPACE - CAPABILITY_BYTES;
        if !places.contains(&offset) || !offset.is_multiple_of(4) {
            return Err(none);
        }
        let mut read = |at| platform.config_read(function, offset + at);
        let header = CapabilityHeader::from_bits(read(HEADER));
        if !header.is_iommu() {
            return Err(none);
        }
        let (low, high) = (read(BASE_LOW), read(BASE_HIGH));
        Ok(Self {
            header,
            registers: RegisterBase::from_bits(u64::from(high) << 32 | u64::from(low)),
            miscellaneous: Miscellaneous::from_bits(read(MISCELLANEOUS)),
        })
    }

    /// Makes sure that the registers answer at `base`, where firmware's table says that they are: a multiple of
    /// 16 KiB.
    ///
    /// QEMU says nonsense of the place until 8.0 at the least, with Enable clear, and cannot be told another; its
    /// registers are where its table says. So one that is not enabled is told, and whether registers answer
    /// there shows when they are read.
    ///
    /// # Errors
    ///
    /// [`UnitRefusal::Elsewhere`] if they answer at another address.
    pub fn enable(
        &self,
        platform: &mut impl ConfigSpace,
        function: PciAddress,
        offset: u16,
        base: PhysAddr,
    ) -> Result<(), UnitRefusal> {
        if !self.registers.enabled() {
            let wanted = RegisterBase::new().with_base(base).with_enabled(true).into_bits();
            platform.config_write(function, offset + BASE_HIGH, (wanted >> 32) as u32);
            platform.config_write(function, offset + BASE_LOW, wanted as u32);
            Ok(())
        } else if self.registers.base() == base {
            Ok(())
        } else {
            Err(UnitRefusal::Elsewhere { base: self.registers.base() })
        }
    }
}

/// Offsets of the registers from the start of the capability.
const HEADER: u16 = 0x00;
const BASE_LOW: u16 = 0x04;
const BASE_HIGH: u16 = 0x08;
const MISCELLANEOUS: u16 = 0x10;

#[cfg(test)]
pub(in crate::amdvi) mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A function's configuration space: what is written stays.
    pub(in crate::amdvi) struct FakeConfig {
        pub(in crate::amdvi) words: [u32; 64],
        pub(in crate::amdvi) writes: Vec<(u16, u32)>,
    }

    impl FakeConfig {
        /// With the capability of QEMU 11 at 40h, its registers at this address.
        pub(in crate::amdvi) fn new(base: u64, enabled: bool) -> Self {
            let mut words = [0; 64];
            words[0x40 / 4] = 0x1f03_000f;
            words[0x44 / 4] = base as u32 | u32::from(enabled);
            words[0x48 / 4] = (base >> 32) as u32;
            words[0x50 / 4] = 0x0018_2800;
            Self { words, writes: Vec::new() }
        }
    }

    impl ConfigSpace for FakeConfig {
        fn config_read(&mut self, _: PciAddress, offset: u16) -> u32 {
            self.words.get(usize::from(offset) / 4).copied().unwrap_or(u32::MAX)
        }

        fn config_write(&mut self, _: PciAddress, offset: u16, value: u32) {
            self.writes.push((offset, value));
            self.words[usize::from(offset) / 4] = value;
        }
    }

    fn function() -> PciAddress {
        PciAddress::new(0, 0, 1, 0).unwrap()
    }

    fn read(config: &mut FakeConfig, offset: u16) -> Result<Capability, UnitRefusal> {
        Capability::read(config, function(), offset)
    }

    #[test]
    fn the_header_has_its_fields_where_the_spec_puts_them() {
        let header = CapabilityHeader::from_bits(0x190b_640f);
        assert!(header.is_iommu());
        assert_eq!((header.next(), header.revision()), (0x64, 1));
        assert!(header.device_tlbs() && !header.tunnel());
        assert!(!header.caches_absent() && header.extended_features() && header.extended());
        assert!(CapabilityHeader::from_bits(1 << 25).tunnel());
        assert!(CapabilityHeader::from_bits(1 << 26).caches_absent());
    }

    #[test]
    fn the_capability_tells_where_the_registers_are_and_how_wide_addresses_are() {
        let mut config = FakeConfig::new(0x12_fed8_0000, true);
        let capability = read(&mut config, 0x40).unwrap();
        assert!(capability.registers.enabled());
        assert_eq!(capability.registers.base(), PhysAddr::new(0x12_fed8_0000));
        let miscellaneous = capability.miscellaneous;
        assert_eq!((miscellaneous.physical_bits(), miscellaneous.virtual_bits()), (40, 48));
        let real = Miscellaneous::from_bits(0x0020_3041);
        assert_eq!((real.physical_bits(), real.virtual_bits()), (48, 64));
        assert_eq!((real.event_interrupt(), real.guest_address_size()), (1, 0b010));
    }

    #[test]
    fn r5_a_place_with_no_iommu_s_capability_is_refused() {
        let refused = |config: &mut FakeConfig, offset| {
            assert_eq!(read(config, offset), Err(UnitRefusal::NoCapability { offset }));
        };
        let mut config = FakeConfig::new(0xfed8_0000, true);
        for offset in [0, 0x3c, 0x41, 0x44, 0xf0, 0x100, 0xfffc] {
            refused(&mut config, offset);
        }
        config.words[0x40 / 4] = 0x1f02_000f;
        refused(&mut config, 0x40);
        config.words[0x40 / 4] = 0x1f03_0010;
        refused(&mut config, 0x40);
        config.words[0x40 / 4] = u32::MAX;
        refused(&mut config, 0x40);
    }

    #[test]
    fn registers_that_do_not_answer_are_turned_on_where_the_table_says() {
        let base = PhysAddr::new(0x1_fed8_0000);
        // As QEMU 7.2 has it: nonsense in the upper half, and off.
        let mut config = FakeConfig::new(0xfed8_0000_0000, false);
        let capability = read(&mut config, 0x40).unwrap();
        assert_eq!(capability.enable(&mut config, function(), 0x40, base), Ok(()));
        assert_eq!(config.writes, [(0x48, 1), (0x44, 0xfed8_0001)]);
    }

    #[test]
    fn registers_that_answer_are_left_where_they_are_and_must_be_where_the_table_says() {
        let mut config = FakeConfig::new(0xfed8_0000, true);
        let capability = read(&mut config, 0x40).unwrap();
        let base = PhysAddr::new(0xfed8_0000);
        assert_eq!(capability.enable(&mut config, function(), 0x40, base), Ok(()));
        let other = PhysAddr::new(0xfeb8_0000);
        let refused = capability.enable(&mut config, function(), 0x40, other);
        assert_eq!(refused, Err(UnitRefusal::Elsewhere { base }));
        assert_eq!(config.writes, []);
    }
}
