//! Devices anywhere in the machine, and who is said to have blocked them.

use dma_types::{Access, PciAddress, SourceId};
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::Event;
use iommu_engine::platform::ConfigSpace;
use iommu_sim::machine::{AmdviUnitConfig, IvhdKind, UnitConfig, UnitScope};
use iommu_sim::pci::acs;
use iommu_sim::{Blocked, MachineConfig};

use crate::rig::Rig;
use crate::vendor::Vendor;

/// Access Control Services that keep what is behind a port apart from the rest.
pub(crate) const APART: Option<u16> = Some(acs::ISOLATING);

/// A function by its address, in segment 0 if none is named.
pub(crate) fn at(address: &str) -> PciAddress {
    address.parse().unwrap()
}

impl Vendor {
    /// The machine with a unit more, for these functions and what is behind those of them that are bridges. It is
    /// the last of those that are not for all the rest.
    pub(crate) fn with_unit_for(
        self,
        mut config: MachineConfig,
        devices: &[PciAddress],
    ) -> MachineConfig {
        let scope = UnitScope::Devices(devices.to_vec());
        let is_rest = |scope: &UnitScope| matches!(scope, UnitScope::IncludeAll);
        let segment = devices[0].segment();
        match self {
            Self::Vtd => {
                let place = config.units.iter().filter(|unit| !is_rest(&unit.scope)).count();
                let base = 0xfe00_0000 + 0x1_0000 * place as u64;
                let vtd = config.units[place].vtd.clone();
                config.units.insert(place, UnitConfig { base, segment, scope, vtd });
            }
            Self::Amdvi => {
                let place = config.amdvi_units.iter().filter(|unit| !is_rest(&unit.scope)).count();
                let unit = AmdviUnitConfig {
                    base: 0xfe00_0000 + 0x1_0000 * place as u64,
                    function: PciAddress::from_source(segment, SourceId::new(0xc0 + place as u16)),
                    scope,
                    blocks: vec![IvhdKind::Extended],
                    io_apic: None,
                    ..config.amdvi_units[place].clone()
                };
                config.amdvi_units.insert(place, unit);
            }
        }
        config
    }
}

impl Rig {
    /// Lets a function send requests, as its driver does.
    pub(crate) fn drive(&mut self, device: PciAddress) {
        self.platform.config_write(device, 4, 6);
    }

    pub(crate) fn write_from(&self, device: PciAddress, iova: u64) -> Result<(), Blocked> {
        self.platform.machine_mut().dma_write(device, iova, &[7; 8])
    }

    pub(crate) fn read_from(&self, device: PciAddress, iova: u64) -> Result<(), Blocked> {
        self.platform.machine_mut().dma_read(device, iova, &mut [0; 8])
    }

    /// Whether a function reaches memory both ways; it is an error if it does one way only, or is stopped by
    /// something else than a unit.
    pub(crate) fn reaches(&self, device: PciAddress, iova: u64) -> bool {
        match (self.write_from(device, iova), self.read_from(device, iova)) {
            (Ok(()), Ok(())) => true,
            (Err(write), Err(read)) if write.is_by_tables() && read.is_by_tables() => false,
            other => panic!("{device} at {iova:#x}: {other:?}"),
        }
    }

    /// Attaches a device to a domain that there is.
    pub(crate) fn attach_to(&mut self, device: PciAddress, domain: DomainKey) {
        let completion = self.engine.attach(&mut self.platform, device, domain).unwrap();
        self.finish(&completion);
    }

    /// Detaches a device, which goes on sending requests.
    pub(crate) fn detach(&mut self, device: PciAddress) {
        let completion = self.engine.detach(&mut self.platform, device).unwrap();
        self.finish(&completion);
        self.drive(device);
    }

    /// A page of memory in a domain: where.
    pub(crate) fn page(&mut self, domain: DomainKey) -> u64 {
        let run = self.run(4096);
        self.map(domain, run, 4096, Access::ReadWrite).get()
    }

    /// Which units have blocked whom since the last time.
    pub(crate) fn blamed(&mut self) -> Vec<(u16, PciAddress)> {
        let events = self.engine.take_events(&mut self.platform).into_iter();
        let blamed = events.map(|event| match event {
            Event::Fault { unit, segment, fault } => (unit.0, fault.device_in(segment).unwrap()),
            Event::FaultsLost { unit } => panic!("unit {} has lost faults", unit.0),
        });
        blamed.collect()
    }

    /// The unit that the engine takes to be in front of a function.
    pub(crate) fn unit_of(&self, device: PciAddress) -> Option<u16> {
        self.engine.device(device)?.unit.map(|unit| unit.0)
    }

    /// The group of a function, its members by address.
    pub(crate) fn group_of(&self, device: PciAddress) -> &[PciAddress] {
        self.engine.group(device).unwrap().members()
    }

    /// What the engine found odd, in words.
    pub(crate) fn oddities(&self) -> Vec<String> {
        self.engine.remarks().iter().map(ToString::to_string).collect()
    }
}
