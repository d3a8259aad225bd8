//! The units, and which functions are there.

use dma_types::{PciAddress, SourceId};

use super::access::Machine;
use super::config::{AmdviUnitConfig, BridgeConfig, FunctionConfig, UnitConfig, UnitScope};
use super::topology;
use crate::amdvi::AmdviUnit;
use crate::dram::Bus;
use crate::memory::Memory;
use crate::pace::Health;
use crate::pci::{Function, IommuBlock};
use crate::request::Message;
use crate::vtd::VtdUnit;

/// A unit of either vendor.
#[derive(Debug)]
pub(super) enum Hardware {
    Vtd(VtdUnit),
    Amdvi(AmdviUnit),
}

/// How the machine's tables describe a unit.
#[derive(Debug)]
pub(super) enum Description {
    Vtd(UnitConfig),
    Amdvi(AmdviUnitConfig),
}

/// A unit and where it is.
#[derive(Debug)]
pub(super) struct UnitSlot {
    pub(super) description: Description,
    pub(super) hardware: Hardware,
}

impl UnitSlot {
    pub(super) fn vtd(config: UnitConfig) -> Self {
        let hardware = Hardware::Vtd(VtdUnit::new(config.vtd.clone()));
        Self { description: Description::Vtd(config), hardware }
    }

    pub(super) fn amdvi(config: AmdviUnitConfig) -> Self {
        let hardware = Hardware::Amdvi(AmdviUnit::new(config.amdvi.clone()));
        Self { description: Description::Amdvi(config), hardware }
    }

    /// The unit's own function, if it has one.
    pub(super) fn function(&self) -> Option<PciAddress> {
        match &self.description {
            Description::Vtd(_) => None,
            Description::Amdvi(config) => Some(config.function),
        }
    }

    /// The segment that the unit serves, and its scope in it.
    pub(super) fn serves(&self) -> (u16, &UnitScope) {
        match &self.description {
            Description::Vtd(config) => (config.segment, &config.scope),
            Description::Amdvi(config) => (config.function.segment(), &config.scope),
        }
    }
}

impl AmdviUnitConfig {
    /// What the unit's PCI capability says.
    pub(super) fn capability_block(&self) -> IommuBlock {
        IommuBlock {
            base: self.base,
            enabled: self.enabled,
            device_tlb: self.amdvi.device_tlb,
            np_cache: self.amdvi.np_cache,
            extended_features: self.amdvi.extended_features,
            msi_number: self.amdvi.msi_number,
            host_address_bits: self.amdvi.host_address_bits,
            device_address_bits: self.amdvi.device_address_bits,
        }
    }
}

impl Hardware {
    pub(super) fn read(&mut self, bus: Bus<'_>, at: u64, size: usize) -> u64 {
        match self {
            Self::Vtd(unit) => {
                let low = u64::from(unit.read(at));
                if size == 8 { u64::from(unit.read(at + 4)) << 32 | low } else { low }
            }
            Self::Amdvi(unit) => unit.read(bus, at, size),
        }
    }

    pub(super) fn write(&mut self, bus: Bus<'_>, at: u64, size: usize, value: u64) {
        match self {
            Self::Vtd(unit) => {
                unit.write(bus, at, value as u32);
                if size == 8 {
                    unit.write(bus, at + 4, (value >> 32) as u32);
                }
            }
            Self::Amdvi(unit) => unit.write(bus, at, size, value),
        }
    }

    pub(super) fn advance(&mut self, bus: Bus<'_>, now: u64) {
        match self {
            Self::Vtd(unit) => unit.advance(bus, now),
            Self::Amdvi(unit) => unit.advance(bus, now),
        }
    }

    pub(super) fn is_coherent(&self) -> bool {
        match self {
            Self::Vtd(unit) => unit.config().coherent,
            Self::Amdvi(unit) => unit.config().coherent,
        }
    }

    /// The interrupts sent since this was last asked. An AMD-Vi unit sends them by the MSI of its function.
    pub(super) fn take_messages(&mut self, own_msi: Option<(u64, u32)>) -> Vec<Message> {
        match self {
            Self::Vtd(unit) => unit.take_messages(),
            Self::Amdvi(unit) => {
                let count = unit.take_interrupts();
                let message = own_msi.map(|(address, data)| Message { address, data });
                message.map_or(Vec::new(), |message| vec![message; count])
            }
        }
    }
}

/// A function with these bits of ACS, if there are any.
pub(super) fn with_acs(function: Function, bits: Option<u16>) -> Function {
    match bits {
        Some(bits) => function.with_acs(bits),
        None => function,
    }
}

impl<M: Memory> Machine<M> {
    /// The VT-d unit with this number, in the order of the configuration.
    pub fn unit(&self, number: usize) -> Option<&VtdUnit> {
        let mut vtd = self.units.iter().filter_map(|slot| match &slot.hardware {
            Hardware::Vtd(unit) => Some(unit),
            Hardware::Amdvi(_) => None,
        });
        vtd.nth(number)
    }

    /// The VT-d unit with this number, to make it slow, dead or used by firmware.
    pub fn unit_mut(&mut self, number: usize) -> Option<&mut VtdUnit> {
        let mut vtd = self.units.iter_mut().filter_map(|slot| match &mut slot.hardware {
            Hardware::Vtd(unit) => Some(unit),
            Hardware::Amdvi(_) => None,
        });
        vtd.nth(number)
    }

    /// The AMD-Vi unit with this number, in the order of the configuration.
    pub fn amdvi(&self, number: usize) -> Option<&AmdviUnit> {
        let mut amdvi = self.units.iter().filter_map(|slot| match &slot.hardware {
            Hardware::Vtd(_) => None,
            Hardware::Amdvi(unit) => Some(unit),
        });
        amdvi.nth(number)
    }

    /// The AMD-Vi unit with this number, to make it slow, dead or used by firmware.
    pub fn amdvi_mut(&mut self, number: usize) -> Option<&mut AmdviUnit> {
        let mut amdvi = self.units.iter_mut().filter_map(|slot| match &mut slot.hardware {
            Hardware::Vtd(_) => None,
            Hardware::Amdvi(unit) => Some(unit),
        });
        amdvi.nth(number)
    }

    /// Whether a unit translates, VT-d units counted before AMD-Vi units.
    pub fn is_translating(&self, number: usize) -> bool {
        self.units.get(number).is_some_and(|slot| match &slot.hardware {
            Hardware::Vtd(unit) => unit.is_translating(),
            Hardware::Amdvi(unit) => unit.is_translating(),
        })
    }

    /// What a unit was asked by its queue to forget and has not: the words of each request. Of requests to say when it is
    /// done it is zero, and where they write. Units are counted as above.
    pub fn unforgotten(&self, number: usize) -> Vec<(u64, u64)> {
        let bus = Bus { memory: &self.memory, dram: &self.dram };
        match self.units.get(number).map(|slot| &slot.hardware) {
            Some(Hardware::Vtd(unit)) => unit.untaken(bus),
            Some(Hardware::Amdvi(unit)) => unit.untaken(bus),
            None => Vec::new(),
        }
    }

    /// Makes the registers of a unit answer, or not; units are counted as above.
    pub fn set_health(&mut self, number: usize, health: Health) {
        match self.units.get_mut(number).map(|slot| &mut slot.hardware) {
            Some(Hardware::Vtd(unit)) => unit.set_health(health),
            Some(Hardware::Amdvi(unit)) => unit.set_health(health),
            None => {}
        }
    }

    /// Everything that software did to the units that it must not, in words.
    pub fn violations(&self) -> Vec<String> {
        let of = |(number, slot): (usize, &UnitSlot)| {
            let words: Vec<_> = match &slot.hardware {
                Hardware::Vtd(unit) => {
                    unit.violations().iter().map(|it| format!("{it:?}")).collect()
                }
                Hardware::Amdvi(unit) => {
                    unit.violations().iter().map(|it| format!("{it:?}")).collect()
                }
            };
            words.into_iter().map(move |word| format!("unit {number}: {word}"))
        };
        self.units.iter().enumerate().flat_map(of).collect()
    }

    /// Makes an AMD-Vi unit log an event, given as its two words, as if it had happened: for kinds that no
    /// simulated hardware causes.
    pub fn log_amdvi_event(&mut self, number: usize, low: u64, high: u64) {
        let bus = Bus { memory: &self.memory, dram: &self.dram };
        let mut amdvi = self.units.iter_mut().filter_map(|slot| match &mut slot.hardware {
            Hardware::Vtd(_) => None,
            Hardware::Amdvi(unit) => Some(unit),
        });
        if let Some(unit) = amdvi.nth(number) {
            unit.log_words(bus, low, high);
        }
    }

    /// Plugs in a function, as one hot-added does.
    pub fn plug(&mut self, config: FunctionConfig) {
        let (vendor, device) = config.identity;
        let function = Function::new(vendor, device, config.class);
        let function = match config.express {
            Some(kind) => function.with_express(kind),
            None => function,
        };
        self.insert(config.address, with_acs(function, config.acs), config.requester);
    }

    /// Plugs in a bridge, as a hot-added dock or card has one.
    pub fn plug_bridge(&mut self, config: BridgeConfig) {
        let function = Function::bridge(config.kind, config.secondary, config.subordinate);
        self.insert(config.address, with_acs(function, config.acs), None);
    }

    /// The source-id that requests of a function carry when they arrive at its unit.
    pub fn requester(&self, function: PciAddress) -> SourceId {
        let own = self.requesters.get(&function).copied().unwrap_or(function.source());
        topology::requester(&self.functions, function, own)
    }

    /// The number of the unit that translates the requests of a function, VT-d units counted before AMD-Vi
    /// units.
    pub fn unit_of(&self, function: PciAddress) -> Option<usize> {
        topology::unit_of(self.units.iter().map(UnitSlot::serves), &self.functions, function)
    }

    /// Where the registers of a unit are, and how many bytes of them.
    pub(super) fn window(&self, slot: &UnitSlot) -> Option<(u64, u64)> {
        match &slot.description {
            Description::Vtd(config) => Some((config.base, config.vtd.window_bytes())),
            Description::Amdvi(config) => {
                let base = self.functions.get(&config.function)?.iommu_base()?;
                Some((base, config.amdvi.window_bytes))
            }
        }
    }

    /// Puts a function in its place. Where a device has several, all of them say so.
    pub(super) fn insert(
        &mut self,
        address: PciAddress,
        function: Function,
        requester: Option<SourceId>,
    ) {
        self.functions.insert(address, function);
        self.requesters.extend(requester.map(|requester| (address, requester)));
        let same_device = |at: &PciAddress| {
            (at.segment(), at.bus(), at.device())
                == (address.segment(), address.bus(), address.device())
        };
        if self.functions.keys().filter(|at| same_device(at)).count() > 1 {
            for (_, function) in self.functions.iter_mut().filter(|(at, _)| same_device(at)) {
                function.set_multi_function();
            }
        }
    }
}
