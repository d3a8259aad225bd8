//! What is in a machine.

use dma_types::{PciAddress, SourceId};

use crate::amdvi::AmdviConfig;
use crate::pci::{BridgeKind, ExpressKind};
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

/// An AMD-Vi unit in the machine.
#[derive(Clone, Debug)]
pub struct AmdviUnitConfig {
    /// Where its registers are, a multiple of 16 KiB.
    pub base: u64,
    /// Whether firmware has turned the registers on there (Enable in the PCI capability).
    pub enabled: bool,
    /// The unit's own PCI function, in the segment that it serves.
    pub function: PciAddress,
    /// Whose requests it translates.
    pub scope: UnitScope,
    /// Which blocks in the IVRS table describe it.
    pub blocks: Vec<IvhdKind>,
    /// The I/O APIC that the table says is behind it.
    pub io_apic: Option<SourceId>,
    /// An ACPI device that the table says is behind it: hardware id and source-id. Only 40h blocks tell.
    pub acpi_device: Option<([u8; 8], SourceId)>,
    /// What it can do.
    pub amdvi: AmdviConfig,
}

/// Kinds of IVHD block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IvhdKind {
    /// 10h: the first kind, with a summary of the features.
    Basic = 0x10,
    /// 11h: with an image of the Extended Feature Register.
    Extended = 0x11,
    /// 40h: the same, and ACPI devices may be named.
    Acpi = 0x40,
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
    /// What it is on PCI Express, or `None` for a conventional function.
    pub express: Option<ExpressKind>,
    /// The bits of its ACS capability, if it is PCI Express and has one.
    pub acs: Option<u16>,
    /// Whose source-id its requests carry, if not its own: some devices are wrong that way.
    pub requester: Option<SourceId>,
}

impl EduConfig {
    /// A conventional `edu` at once with everything, at this address.
    pub fn new(address: PciAddress, bar: u32) -> Self {
        Self {
            address,
            bar,
            dma_nanos: 0,
            dma_mask: u64::MAX,
            express: None,
            acs: None,
            requester: None,
        }
    }
}

/// Any other function in the machine. It does nothing of its own;
/// [`Machine::dma_read`](crate::Machine::dma_read) and its like make its requests.
#[derive(Clone, Debug)]
pub struct FunctionConfig {
    /// Its PCI address.
    pub address: PciAddress,
    /// Vendor and device.
    pub identity: (u16, u16),
    /// Class, subclass, interface and revision, as in the dword at 0x08.
    pub class: u32,
    /// What it is on PCI Express, or `None` for a conventional function.
    pub express: Option<ExpressKind>,
    /// The bits of its ACS capability, if it is PCI Express and has one.
    pub acs: Option<u16>,
    /// Whose source-id its requests carry, if not its own.
    pub requester: Option<SourceId>,
}

impl FunctionConfig {
    /// A PCI Express network card.
    pub fn endpoint(address: PciAddress) -> Self {
        Self {
            address,
            identity: (0x10ec, 0x8168),
            class: 0x0200_0000,
            express: Some(ExpressKind::Endpoint),
            acs: None,
            requester: None,
        }
    }

    /// A conventional network card.
    pub fn conventional(address: PciAddress) -> Self {
        Self { identity: (0x10ec, 0x8139), express: None, ..Self::endpoint(address) }
    }
}

/// A bridge in the machine, a root port for one.
#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// Its PCI address.
    pub address: PciAddress,
    /// What kind it is.
    pub kind: BridgeKind,
    /// The bus behind it.
    pub secondary: u8,
    /// The last bus behind it. It may be beyond the last that there is, to leave room for what is plugged
    /// in later.
    pub subordinate: u8,
    /// The bits of its ACS capability, if it is PCI Express and has one.
    pub acs: Option<u16>,
}

/// Memory that firmware reserves for some functions (RMRR, IVMD). Nobody checks that it makes sense.
#[derive(Clone, Debug)]
pub struct ReservedRegion {
    /// Its first byte, a multiple of 4096.
    pub base: u64,
    /// Its last byte, one less than a multiple of 4096.
    pub limit: u64,
    /// The functions, all of one segment. None means all functions, which only an IVRS table can say.
    pub devices: Vec<PciAddress>,
    /// An IVRS table names the functions from the first to the last of `devices` (22h), instead of each
    /// (21h).
    pub range: bool,
    /// In an IVRS table: an exclusion range, instead of one that is mapped to itself.
    pub exclusion: bool,
}

/// What is in a machine. A host bridge at 00:00.0 of each segment always is.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The VT-d units. Without any, and AMD-Vi units, the machine has no table of IOMMUs. One with [`UnitScope::IncludeAll`] is last of its segment in the DMAR table.
    pub units: Vec<UnitConfig>,
    /// The AMD-Vi units. A machine with any has an IVRS table and no DMAR table.
    pub amdvi_units: Vec<AmdviUnitConfig>,
    /// The devices.
    pub edus: Vec<EduConfig>,
    /// Other functions.
    pub functions: Vec<FunctionConfig>,
    /// The bridges.
    pub bridges: Vec<BridgeConfig>,
    /// The reserved regions.
    pub reserved: Vec<ReservedRegion>,
    /// Whether the root complex takes requests of devices to devices' registers, after a unit has translated them. Each
    /// may or not (PCI Express 5.0, 1.3.1); QEMU's do.
    pub routes_peers: bool,
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
        Self {
            units: vec![unit],
            amdvi_units: Vec::new(),
            edus: vec![EduConfig::new(at(0x0010), 0xfea0_0000)],
            functions: Vec::new(),
            bridges: Vec::new(),
            reserved: Vec::new(),
            routes_peers: false,
        }
    }
}

/// An address in segment 0.
fn at(source: u16) -> PciAddress {
    PciAddress::from_source(0, SourceId::new(source))
}

impl MachineConfig {
    /// The default machine without an IOMMU.
    pub fn without_units() -> Self {
        Self { units: Vec::new(), ..Self::default() }
    }

    /// The same, with a root complex that takes requests of devices to devices' registers.
    pub fn with_peer_routing(self) -> Self {
        Self { routes_peers: true, ..self }
    }

    /// The default machine with another unit.
    pub fn with_unit(vtd: VtdConfig) -> Self {
        let mut config = Self::default();
        config.units[0].vtd = vtd;
        config
    }

    /// The default machine with an AMD-Vi unit instead: at 0xfed80000, its function 0000:00:00.2, described
    /// by 10h and 11h blocks.
    pub fn with_amdvi(amdvi: AmdviConfig) -> Self {
        let unit = AmdviUnitConfig {
            base: 0xfed8_0000,
            enabled: true,
            function: at(0x0002),
            scope: UnitScope::IncludeAll,
            blocks: vec![IvhdKind::Basic, IvhdKind::Extended],
            io_apic: Some(SourceId::new(0x00a0)),
            acpi_device: None,
            amdvi,
        };
        Self { units: Vec::new(), amdvi_units: vec![unit], ..Self::default() }
    }

    /// Adds a root port at 0000:00:03.0 and behind it, at 0000:01:00.0, a second `edu` with BAR 0 at
    /// 0xfeb00000.
    pub fn with_root_port(mut self) -> Self {
        self.edus.push(EduConfig::new(at(0x0100), 0xfeb0_0000));
        self.with_bridge(BridgeKind::RootPort, 0x0018, (1, 1), None)
    }

    /// Adds a root port at 00:04.0 with buses 10h to 1fh, and behind it a switch with three downstream
    /// ports, each with or without the bits of ACS that keep what is behind them apart. PCI Express cards
    /// are at 12:00.0 and 13:00.0; bus 14h is empty, with room for more until 1fh.
    pub fn with_switch(mut self, acs: Option<u16>) -> Self {
        use BridgeKind::*;
        self.functions.extend([0x1200, 0x1300].map(|source| FunctionConfig::endpoint(at(source))));
        self.with_bridge(RootPort, 0x0020, (0x10, 0x1f), acs)
            .with_bridge(SwitchUpstream, 0x1000, (0x11, 0x1f), None)
            .with_bridge(SwitchDownstream, 0x1100, (0x12, 0x12), acs)
            .with_bridge(SwitchDownstream, 0x1108, (0x13, 0x13), acs)
            .with_bridge(SwitchDownstream, 0x1110, (0x14, 0x1f), acs)
    }

    /// Adds a root port at 00:05.0 with buses 20h to 22h, behind it at 20:00.0 a bridge to PCI, and behind
    /// that conventional cards at 21:01.0 and 21:02.0, and at 21:03.0 another bridge with a card at
    /// 22:00.0. All three sign as 21:00.0.
    pub fn with_pci_bridge(mut self) -> Self {
        use BridgeKind::*;
        let cards = [0x2108, 0x2110, 0x2200];
        self.functions.extend(cards.map(|source| FunctionConfig::conventional(at(source))));
        self.with_bridge(RootPort, 0x0028, (0x20, 0x22), Some(crate::pci::acs::ISOLATING))
            .with_bridge(ExpressToPci, 0x2000, (0x21, 0x22), None)
            .with_bridge(Conventional, 0x2118, (0x22, 0x22), None)
    }

    /// Adds a bridge to PCI on bus 0, at 00:1e.0, as chipsets have had it, with a card at 30:01.0 behind it
    /// that signs as 00:1e.0.
    pub fn with_legacy_bridge(mut self) -> Self {
        self.functions.push(FunctionConfig::conventional(at(0x3008)));
        self.with_bridge(BridgeKind::Conventional, 0x00f0, (0x30, 0x30), None)
    }

    /// Adds a card of two functions at 00:06.0 and 00:06.1, each with these bits of ACS.
    pub fn with_two_functions(mut self, acs: Option<u16>) -> Self {
        let integrated = |source| FunctionConfig {
            express: Some(ExpressKind::IntegratedEndpoint),
            acs,
            ..FunctionConfig::endpoint(at(source))
        };
        self.functions.extend([0x0030, 0x0031].map(integrated));
        self
    }

    /// Adds a Marvell 88SE9123 disk controller at 00:07.0, whose requests carry the source-id of 00:07.1, which
    /// does not exist.
    pub fn with_quirky_function(mut self) -> Self {
        let function = FunctionConfig {
            identity: (0x1b4b, 0x9123),
            class: 0x0106_0100,
            requester: Some(SourceId::new(0x0039)),
            ..FunctionConfig::endpoint(at(0x0038))
        };
        self.functions.push(function);
        self
    }

    /// Adds a bridge in segment 0 with these buses behind it.
    pub fn with_bridge(
        mut self,
        kind: BridgeKind,
        source: u16,
        (secondary, subordinate): (u8, u8),
        acs: Option<u16>,
    ) -> Self {
        let address = at(source);
        self.bridges.push(BridgeConfig { address, kind, secondary, subordinate, acs });
        self
    }

    /// Adds a region that firmware reserves for some functions.
    pub fn with_reserved(mut self, base: u64, limit: u64, devices: &[PciAddress]) -> Self {
        let devices = devices.to_vec();
        self.reserved.push(ReservedRegion { base, limit, devices, range: false, exclusion: false });
        self
    }
}
