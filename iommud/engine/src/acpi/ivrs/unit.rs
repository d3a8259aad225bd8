//! IVHD: an IOMMU.

use alloc::vec::Vec;

use bitfield_struct::bitfield;
use dma_types::{PciAddress, PhysAddr, SourceId};

use super::entry::DeviceEntry;
use super::kind::IvhdKind;
use super::raw::{RawIvhd, RawRichIvhd};
use crate::acpi::{UnitFault, registers};

/// The bytes of registers of every unit, and what their address is a multiple of.
const REGISTER_BYTES: u64 = 16 << 10;

/// The bytes of registers of a unit with performance counters.
const REGISTER_BYTES_WITH_COUNTERS: u64 = 512 << 10;

/// An I/O Virtualization Hardware Definition block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ivhd {
    /// Where the block starts, in bytes from the start of the table.
    pub offset: usize,
    /// The type of the block.
    pub kind: IvhdKind,
    /// The PCI segment of the unit and of its devices.
    pub segment: u16,
    /// The PCI function that the unit is. Its own requests are not translated.
    pub function: SourceId,
    /// Where the unit's capability starts in the configuration space of that function.
    pub capability: u16,
    /// Where its registers start.
    pub registers: PhysAddr,
    /// How many bytes of registers there are: 16 KiB, or 512 KiB with performance counters.
    pub register_bytes: u64,
    /// What firmware asks to be set in the unit's control register, and what the unit can.
    pub flags: IvhdFlags,
    /// How the unit signs its own interrupts.
    pub info: IvhdInfo,
    /// What the unit can, by what firmware has read from it.
    pub reported: Reported,
    /// Its devices, in the order of the table, which matters: of several entries that name a device the
    /// last holds.
    pub entries: Vec<DeviceEntry>,
}

/// Flags of the block. The first four and `coherent` are settings of the unit's control register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct IvhdFlags {
    /// HtTunEn, bit 0: the unit passes on what comes through HyperTransport tunnels.
    #[bits(access = RO)]
    pub ht_tunnel: bool,
    /// PassPW, bit 1: requests may pass posted writes.
    #[bits(access = RO)]
    pub pass_posted_writes: bool,
    /// ResPassPW, bit 2: responses may pass posted writes.
    #[bits(access = RO)]
    pub responses_pass_posted_writes: bool,
    /// Isoc, bit 3: the unit's own requests are isochronous.
    #[bits(access = RO)]
    pub isochronous: bool,
    /// IotlbSup, bit 4: the unit answers to ATS requests.
    #[bits(access = RO)]
    pub device_iotlbs: bool,
    /// Coherent, bit 5: the unit reads its tables coherently with the caches.
    #[bits(access = RO)]
    pub coherent: bool,
    /// PreFSup, bit 6 (type 10h): the unit knows the command that prefetches translations.
    #[bits(access = RO)]
    pub prefetch: bool,
    /// PPRSup, bit 7 (type 10h): the unit logs page requests of devices.
    #[bits(access = RO)]
    pub page_requests: bool,
}

/// The IOMMU info field of the block.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct IvhdInfo {
    /// MSInum, bits 4:0: the number of the message that the unit sends for events.
    #[bits(5, access = RO)]
    pub msi_number: u8,
    #[bits(3)]
    __: u8,
    /// UnitID, bits 12:8: the unit's HyperTransport UnitID.
    #[bits(5, access = RO)]
    pub unit_id: u8,
    #[bits(3)]
    __: u8,
}

/// What the unit can, by what firmware has read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// Type 10h: a summary.
    Features(IvhdFeatures),
    /// Types 11h and 40h: the registers themselves.
    Registers {
        /// What is not in the registers.
        attributes: IvhdAttributes,
        /// The image of the extended feature register. It holds if the table says
        /// [`IvInfo::extended_features`](super::IvInfo::extended_features).
        extended: u64,
        /// The image of the second extended feature register, likewise. Zero in early revisions.
        extended2: u64,
    },
}

/// IOMMU feature reporting, the dword at offset 20 of a block of type 10h. Where the names agree with fields
/// of the extended feature register, so does the meaning.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IvhdFeatures {
    /// XTSup, bit 0: x2APIC.
    #[bits(access = RO)]
    pub x2apic: bool,
    /// NXSup, bit 1: no-execute protection.
    #[bits(access = RO)]
    pub no_execute: bool,
    /// GTSup, bit 2: guest translation.
    #[bits(access = RO)]
    pub guest_translation: bool,
    /// GLXSup, bits 4:3: levels of the guest's CR3 table.
    #[bits(2, access = RO)]
    pub guest_cr3_levels: u8,
    /// IASup, bit 5: the command INVALIDATE_IOMMU_ALL.
    #[bits(access = RO)]
    pub invalidate_all: bool,
    /// GASup, bit 6: guest virtual APIC.
    #[bits(access = RO)]
    pub guest_apic: bool,
    /// HESup, bit 7: hardware error registers.
    #[bits(access = RO)]
    pub hardware_errors: bool,
    /// PASmax, bits 12:8: PASIDs have one bit more than this.
    #[bits(5, access = RO)]
    pub pasid_max: u8,
    /// PNCounters, bits 16:13: performance counters in each bank.
    #[bits(4, access = RO)]
    pub counters: u8,
    /// PNBanks, bits 22:17: banks of performance counters.
    #[bits(6, access = RO)]
    pub counter_banks: u8,
    /// MsiNumPPR, bits 27:23: the number of the message that the unit sends for page requests.
    #[bits(5, access = RO)]
    pub msi_number_page_requests: u8,
    /// GATS, bits 29:28: the code for how many levels guest tables have at most; 0 is 4.
    #[bits(2, access = RO)]
    pub guest_levels: u8,
    /// HATS, bits 31:30: the code for how many levels host tables have at most; 0 is 4, 2 is 6.
    #[bits(2, access = RO)]
    pub host_levels: u8,
}

/// IOMMU attributes, the dword at offset 20 of a block of types 11h and 40h.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IvhdAttributes {
    /// HATDis, bit 0: the unit cannot translate by host tables.
    #[bits(access = RO)]
    pub host_translation_disabled: bool,
    #[bits(12)]
    __: u16,
    /// PNCounters, bits 16:13: performance counters in each bank.
    #[bits(4, access = RO)]
    pub counters: u8,
    /// PNBanks, bits 22:17: banks of performance counters.
    #[bits(6, access = RO)]
    pub counter_banks: u8,
    /// MsiNumPPR, bits 27:23: the number of the message that the unit sends for page requests.
    #[bits(5, access = RO)]
    pub msi_number_page_requests: u8,
    #[bits(4)]
    __: u8,
}

/// The extended feature register, as far as the table's own meaning hangs on it.
#[bitfield(u64)]
struct ExtendedFeatures {
    #[bits(9)]
    __: u16,
    /// PCSup, bit 9.
    counters: bool,
    #[bits(54)]
    __: u64,
}

impl Reported {
    pub(super) fn summary(raw: &RawIvhd) -> Self {
        Self::Features(IvhdFeatures::from_bits(raw.reported.get()))
    }

    pub(super) fn registers(raw: &RawRichIvhd) -> Self {
        Self::Registers {
            attributes: IvhdAttributes::from_bits(raw.ivhd.reported.get()),
            extended: raw.features.get(),
            extended2: raw.features2.get(),
        }
    }

    /// Whether the unit cannot translate by host tables. Blocks of type 10h do not tell.
    fn host_translation_disabled(self) -> bool {
        match self {
            Self::Features(_) => false,
            Self::Registers { attributes, .. } => attributes.host_translation_disabled(),
        }
    }

    /// Whether the unit has performance counters.
    fn counters(self) -> bool {
        match self {
            Self::Features(features) => features.counters() != 0 && features.counter_banks() != 0,
            Self::Registers { extended, .. } => ExtendedFeatures::from_bits(extended).counters(),
        }
    }
}

impl Ivhd {
    pub(super) fn new(
        offset: usize,
        kind: IvhdKind,
        raw: &RawIvhd,
        reported: Reported,
        entries: Vec<DeviceEntry>,
    ) -> Self {
        Self {
            offset,
            kind,
            segment: raw.segment.get(),
            function: SourceId::new(raw.function.get()),
            capability: raw.capability.get(),
            registers: PhysAddr::new(raw.register_base.get()),
            register_bytes: if reported.counters() {
                REGISTER_BYTES_WITH_COUNTERS
            } else {
                REGISTER_BYTES
            },
            flags: IvhdFlags::from_bits(raw.block.flags),
            info: IvhdInfo::from_bits(raw.info.get()),
            reported,
            entries,
        }
    }

    /// The PCI function that the unit is.
    pub fn address(&self) -> PciAddress {
        PciAddress::from_source(self.segment, self.function)
    }

    /// Whether there can be a unit at this address, and it can be used.
    pub(super) fn judge(&self) -> Result<(), UnitFault> {
        if self.reported.host_translation_disabled() {
            return Err(UnitFault::NoHostTables);
        }
        registers::judge(self.registers, self.register_bytes, REGISTER_BYTES)
    }
}
