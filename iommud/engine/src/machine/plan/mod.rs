//! What the engine would do with a machine, before anything is done.
//!
//! | module | what is in it |
//! | --- | --- |
//! | here | [`Plan`] |
//! | [`firmware`] | the firmware's table, Intel's or AMD's |
//! | [`mod@unit`] | the units that it names |
//! | [`group`] | groups of devices, and who translates for each |
//! | [`finding`] | what is odd, and what comes of it |
//!
//! A plan is made from tables and configuration space alone: no register of a unit is read, and nothing is
//! written. It is what `iommuctl plan` prints, and what the engine starts from.

pub mod finding;
pub mod firmware;
pub mod group;
pub mod unit;

mod grow;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};

pub use self::finding::{Finding, NewcomerFault, Oddity, RegionRefusal};
pub use self::firmware::Firmware;
pub use self::group::{GroupFault, PlannedGroup};
pub use self::unit::{LeftOut, PlannedUnit};
use crate::acpi::Coverage;
use crate::completion::UnitId;
use crate::error::StartError;
use crate::iova::INTERRUPT_RANGE;
use crate::machine::reserved::{ReservedRange, merged};
use crate::pci::Function;
use crate::platform::Segment;
use crate::policy::IgnoredUnit;
use crate::topology::Topology;

/// The most units that a table may name. The largest machines have some dozens; a table with more is no
/// table of a machine (rule R5).
pub(super) const MAX_UNITS: usize = 1024;

/// What is known besides the tables. For captured tables of another machine that is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// The physical memory that iommud gives out.
    pub arenas: &'a [Segment],
    /// The units that the policy leaves alone.
    pub ignored: &'a [IgnoredUnit],
}

/// What the engine would do with a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    firmware: Firmware,
    /// The memory that is reserved, by where in the table it is.
    accepted: BTreeMap<usize, ReservedRange>,
    units: Vec<PlannedUnit>,
    devices: BTreeMap<PciAddress, PlannedDevice>,
    groups: Vec<PlannedGroup>,
    findings: Vec<Finding>,
}

/// A PCI function, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedDevice {
    /// The function.
    pub function: Function,
    /// The unit that translates for it, which may be one that is not to be used; `None` if none does.
    pub unit: Option<UnitId>,
    /// Which of the plan's groups it is in.
    pub group: usize,
    /// How it signs its requests by the time a unit sees them. Nothing for a bridge.
    pub requesters: Vec<SourceId>,
    /// The memory that firmware reserves for it.
    pub reserved: Vec<ReservedRange>,
}

impl PlannedDevice {
    /// Whether it is there to be confined: bridges and units are not.
    pub const fn is_endpoint(&self) -> bool {
        self.function.bridge.is_none() && !self.function.is_iommu()
    }
}

impl Plan {
    /// Plans for a machine with these functions, those that [`Firmware::scan`] finds. Without any it is a plan
    /// for the table alone.
    ///
    /// Access Control Services that a function has count as enabled. Who acts by the plan
    /// [enables](crate::pci::acs::enable_all) them first, which takes them from those functions that do not obey.
    ///
    /// # Errors
    ///
    /// [`StartError::TooManyUnits`].
    pub fn new(
        firmware: Firmware,
        functions: &BTreeMap<PciAddress, Function>,
        given: &Given<'_>,
    ) -> Result<Self, StartError> {
        let mut units = firmware.units(functions);
        if units.len() > MAX_UNITS {
            return Err(StartError::TooManyUnits(units.len()));
        }
        for unit in units.iter_mut().filter(|unit| unit.left_out.is_none()) {
            let ignored = given.ignored.iter().find(|ignored| ignored.base == unit.base);
            unit.left_out = ignored.map(|ignored| LeftOut::Policy(ignored.reason.clone()));
        }
        let mut plan = Self {
            findings: firmware.findings(functions),
            firmware,
            accepted: BTreeMap::new(),
            units,
            devices: BTreeMap::new(),
            groups: Vec::new(),
        };
        plan.judge_regions(given.arenas);
        let topology = plan.topology(functions);
        for (address, function) in functions {
            let Some(group) = topology.group_of(*address) else { continue };
            let device = plan.device(function, functions, &topology, group);
            plan.devices.insert(*address, device);
        }
        for group in topology.groups() {
            let members: Vec<_> =
                group.members.iter().filter_map(|member| plan.devices.get(member)).collect();
            let unit = group::common_unit(&members);
            let reserved = members.iter().flat_map(|device| device.reserved.iter().copied());
            let reserved = merged(reserved.collect());
            if let (Err(fault), Some(first)) = (unit, group.members.first()) {
                plan.find(None, Oddity::Group { first: *first, fault });
            }
            plan.groups.push(PlannedGroup { topology: group.clone(), unit, reserved });
        }
        Ok(plan)
    }

    /// The firmware's table.
    pub fn firmware(&self) -> &Firmware {
        &self.firmware
    }

    /// The units, in the order of the table, by [`UnitId`].
    pub fn units(&self) -> &[PlannedUnit] {
        &self.units
    }

    /// The PCI functions, by address.
    pub fn devices(&self) -> &BTreeMap<PciAddress, PlannedDevice> {
        &self.devices
    }

    /// The groups. Their places do not change.
    pub fn groups(&self) -> &[PlannedGroup] {
        &self.groups
    }

    /// All memory that firmware reserves for any device, there or not.
    pub fn reserved(&self) -> impl Iterator<Item = ReservedRange> {
        self.accepted.values().copied()
    }

    /// What is odd.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Decides which memory is reserved.
    fn judge_regions(&mut self, arenas: &[Segment]) {
        for region in self.firmware.regions() {
            let range = region.range;
            let oddity = if let Some(first) = region.copy_of {
                Oddity::RegionTwice { range, first }
            } else if let Some(fault) = self.refusal(range, arenas) {
                Oddity::Region { range, fault }
            } else {
                self.accepted.insert(region.offset, range);
                continue;
            };
            self.find(Some(region.offset), oddity);
        }
    }

    fn refusal(&self, range: ReservedRange, arenas: &[Segment]) -> Option<RegionRefusal> {
        let own = arenas.iter().find(|arena| range.overlaps(arena.start.get(), arena.bytes));
        if let Some(arena) = own {
            return Some(RegionRefusal::OwnMemory(arena.start));
        }
        let sound = self.units.iter().filter(|unit| matches!(unit.entry, Coverage::Unit(_)));
        let mut sound = sound.map(|unit| (unit.base, unit.register_bytes));
        if let Some((base, _)) = sound.find(|(base, bytes)| range.overlaps(base.get(), *bytes)) {
            return Some(RegionRefusal::Registers(base));
        }
        range
            .overlaps(INTERRUPT_RANGE.start.get(), INTERRUPT_RANGE.bytes)
            .then_some(RegionRefusal::Interrupts)
    }

    fn topology(&self, functions: &BTreeMap<PciAddress, Function>) -> Topology {
        match &self.firmware {
            Firmware::Absent => Topology::apart(functions),
            firmware => Topology::new(functions, &|device| firmware.alias_of(device)),
        }
    }

    /// Where a function belongs.
    fn device(
        &self,
        function: &Function,
        functions: &BTreeMap<PciAddress, Function>,
        topology: &Topology,
        group: usize,
    ) -> PlannedDevice {
        let address = function.address;
        let coverage = self.firmware.covering(address, functions);
        let unit = self.units.iter().position(|unit| unit.entry == coverage);
        let reserved = self.firmware.reserved_for(address, functions);
        let reserved = reserved.iter().filter_map(|offset| self.accepted.get(offset).copied());
        PlannedDevice {
            function: *function,
            unit: unit.map(|index| UnitId(index as u16)),
            group,
            requesters: topology.requesters_of(address).to_vec(),
            reserved: merged(reserved.collect()),
        }
    }

    fn find(&mut self, offset: Option<usize>, oddity: Oddity) {
        let finding = Finding { table: self.firmware.table(), offset, oddity };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests;
