//! Whether the units are where the table says, as far as PCI functions tell: AMD's are functions themselves.

use std::collections::BTreeMap;

use dma_types::PhysAddr;
use iommu_engine::acpi::Coverage;
use iommu_engine::acpi::ivrs::Ivhd;
use iommu_engine::amdvi::capability::Capability;
use iommu_engine::amdvi::probe::UnitRefusal;
use iommu_engine::completion::UnitId;
use iommu_engine::machine::plan::{Firmware, Plan};

use crate::ctl::plan::dump::{CONVENTIONAL, Dump};

/// What the units' own functions say of them.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// The units that would be refused, each with the reason.
    pub(super) refused: BTreeMap<UnitId, UnitRefusal>,
    /// The functions of the units of which too little is known.
    pub(super) unknown: Vec<String>,
}

impl Probe {
    /// Looks for the capability of each unit that is to be used, as the engine does before it touches its
    /// registers. `None`: nobody told of any function.
    pub(super) fn new(plan: &Plan, functions: Option<&Dump>) -> Self {
        let mut probe = Self::default();
        let (Firmware::Amdvi(table), Some(dump)) = (plan.firmware(), functions) else {
            return probe;
        };
        let mut config = dump.clone();
        for (index, planned) in plan.units().iter().enumerate() {
            let (Coverage::Unit(entry), None) = (planned.entry, &planned.left_out) else {
                continue;
            };
            let Some(unit) = table.units.get(entry) else { continue };
            let known = dump.functions().find(|(address, _)| *address == unit.address());
            let known = known.map(|(_, bytes)| bytes.len());
            match read(&mut config, unit) {
                Ok(()) => {}
                Err(_) if known.is_some_and(|bytes| bytes < CONVENTIONAL) => {
                    probe.unknown.push(unit.address().to_string());
                }
                Err(refusal) => drop(probe.refused.insert(UnitId(index as u16), refusal)),
            }
        }
        probe
    }

    /// A sentence for each unit that would be refused, with its place.
    pub(super) fn sentences(&self, plan: &Plan) -> Vec<String> {
        let unit = |id: &UnitId| plan.units().get(usize::from(id.0));
        let place = |(id, refusal)| {
            let unit = unit(id)?;
            Some(format!(
                "IVRS offset {:#x}: the unit at {} is not used: {refusal}",
                unit.offset, unit.base
            ))
        };
        self.refused.iter().filter_map(place).collect()
    }
}

/// What the engine asks of the capability: that it is there, and that the registers are where the table says.
fn read(config: &mut Dump, unit: &Ivhd) -> Result<(), UnitRefusal> {
    let capability = Capability::read(config, unit.address(), unit.capability)?;
    let place: PhysAddr = unit.registers;
    // Nothing is written: nobody can write to a dump.
    capability.enable(config, unit.address(), unit.capability, place)
}
