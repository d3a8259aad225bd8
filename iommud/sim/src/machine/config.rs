//! What is in a machine.

use dma_types::{PciAddress, SourceId};

use crate::vtd::VtdConfig;

/// A VT-d unit in the machine.
#[derive(Clone, Debug)]
pub struct UnitConfig {
    /// Where its registers are, a multiple of 4096.
    pub base: u64,
    /// The PCI segment it serves.
    pub segment: u16,
    /// Whose requests it translates.
    pub scope: UnitScope,
    /// What it can do.
    pub vtd: VtdConfig,
}

/// Whose requests a unit translates.
#[derive(Clone, Debug)]
pub enum UnitScope {
    /// All functions of the segment that no other unit names (INCLUDE_PCI_ALL).
    IncludeAll,
    /// These functions; for a bridge, everything behind it too.
    Devices(Vec<PciAddress>),
}

/// An `edu` device in the machine.
#[derive(Clone, Debug)]
pub struct EduConfig {
    /// Its PCI address.
    pub address: PciAddress,
    /// Where firmware put BAR 0, a multiple of 1 MiB below 4 GiB.
    pub bar: u32,
    /// How long a transfer takes. With 0 it is done at the next [`advance`](crate::Machine::advance).
    pub dma_nanos: u64,
    /// The address bits it can put on the bus.
    pub dma_mask: u64,
}

/// A PCI Express root port in the machine.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Its PCI address.
    pub address: PciAddress,
    /// The bus behind it.
    pub secondary: u8,
    /// The last bus behind it.
    pub subordinate: u8,
}

/// Memory that firmware reserves for some functions (RMRR).
#[derive(Clone, Debug)]
pub struct ReservedRegion {
    /// Its first byte, a multiple of 4096.
    pub base: u64,
    /// Its last byte, one less than a multiple of 4096.
    pub limit: u64,
    /// The functions, all of one segment.
    pub devices: Vec<PciAddress>,
}

/// What is in a machine. A host bridge at 0000:00:00.0 always is.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The units. One with [`UnitScope::IncludeAll`] is last of its segment in the DMAR table.
    pub units: Vec<UnitConfig>,
    /// The devices.
    pub edus: Vec<EduConfig>,
    /// The root ports.
    pub ports: Vec<PortConfig>,
    /// The reserved regions.
    pub reserved: Vec<ReservedRegion>,
}

impl Default for MachineConfig {
    /// One roomy VT-d unit at 0xfed90000 for everything, and an `edu` at 0000:00:02.0 with BAR 0 at
    /// 0xfea00000.
    fn default() -> Self {
        let unit = UnitConfig {
            base: 0xfed9_0000,
            segment: 0,
            scope: UnitScope::IncludeAll,
            vtd: VtdConfig::default(),
        };
        let edu = EduConfig {
            address: PciAddress::from_source(0, SourceId::new(0x0010)),
            bar: 0xfea0_0000,
            dma_nanos: 0,
            dma_mask: u64::MAX,
        };
        Self { units: vec![unit], edus: vec![edu], ports: Vec::new(), reserved: Vec::new() }
    }
}

impl MachineConfig {
    /// The default machine with another unit.
    pub fn with_unit(vtd: VtdConfig) -> Self {
        let mut config = Self::default();
        config.units[0].vtd = vtd;
        config
    }

    /// Adds a root port at 0000:00:03.0 and behind it, at 0000:01:00.0, a second `edu` with BAR 0 at
    /// 0xfeb00000.
    pub fn with_root_port(mut self) -> Self {
        let port = PciAddress::from_source(0, SourceId::new(0x0018));
        self.ports.push(PortConfig { address: port, secondary: 1, subordinate: 1 });
        self.edus.push(EduConfig {
            address: PciAddress::from_source(0, SourceId::new(0x0100)),
            bar: 0xfeb0_0000,
            dma_nanos: 0,
            dma_mask: u64::MAX,
        });
        self
    }

    /// Adds a region that firmware reserves for some functions.
    pub fn with_reserved(mut self, base: u64, limit: u64, devices: &[PciAddress]) -> Self {
        self.reserved.push(ReservedRegion { base, limit, devices: devices.to_vec() });
        self
    }
}
