//! The plan for the machine, put into effect.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::PciAddress;

use super::plan::{Firmware, Given, LeftOut, Plan, PlannedUnit};
use super::{Device, Group, Remark, UnitSlot};
use crate::acpi::Coverage;
use crate::acpi::dmar::Dmar;
use crate::acpi::ivrs::Ivrs;
use crate::amdvi;
use crate::amdvi::device_table::DeviceTable;
use crate::amdvi::spec::UnitSpec;
use crate::error::StartError;
use crate::platform::Platform;
use crate::policy::{Policy, WithoutIommu};
use crate::records::{UnitRecord, UnitRoot};
use crate::unit::{Unit, Unusable};
use crate::vtd;

/// What was found.
pub struct Found {
    /// What is done with the machine.
    pub plan: Plan,
    /// The units, in the order of the table.
    pub units: Vec<UnitSlot>,
    /// The PCI functions.
    pub devices: BTreeMap<PciAddress, Device>,
    /// Which of them go together, by [`GroupId`](super::GroupId).
    pub groups: Vec<Group>,
    /// What was odd.
    pub remarks: Vec<Remark>,
}

/// Looks at the machine. Units are asked what they can do and are not touched otherwise; ports are told to send
/// everything up to them.
///
/// # Errors
///
/// [`StartError`] if there is no table, or none that can be trusted.
///
/// Units of which there is a record among those of a predecessor are [found](crate::vtd::unit::Unit::found) as that says.
pub fn discover(
    platform: &mut impl Platform,
    policy: &Policy,
    inherited: &[UnitRecord],
) -> Result<Found, StartError> {
    let firmware = read_table(platform, policy)?;
    let (functions, stubborn) = firmware.scan_enabling(platform);
    let arenas = platform.arenas();
    let given = Given { arenas: &arenas, ignored: &policy.ignored_units };
    let plan = Plan::new(firmware, &functions, &given)?;
    let units = plan
        .units()
        .iter()
        .map(|unit| {
            let is_it =
                |record: &&UnitRecord| (record.base, record.segment) == (unit.base, unit.segment);
            slot(platform, plan.firmware(), unit, inherited.iter().find(is_it))
        })
        .collect();
    let devices = plan.devices().iter().map(|(address, it)| (*address, it.into())).collect();
    let groups = plan.groups().iter().map(Group::planned).collect();
    let mut remarks: Vec<Remark> = stubborn.into_iter().map(Remark::NoAccessControl).collect();
    remarks.extend(plan.findings().iter().cloned().map(Remark::Found));
    Ok(Found { plan, units, devices, groups, remarks })
}

/// The firmware's table of IOMMUs. No machine has both, and one that has none goes on only if the policy says so.
fn read_table(platform: &mut impl Platform, policy: &Policy) -> Result<Firmware, StartError> {
    if let Some(table) = platform.acpi_table(crate::acpi::dmar::table::SIGNATURE)? {
        return Ok(Firmware::Vtd(Dmar::parse(&table)?));
    }
    let table = platform.acpi_table(crate::acpi::ivrs::table::SIGNATURE)?;
    match (table, policy.without_iommu) {
        (Some(table), _) => Ok(Firmware::Amdvi(Ivrs::parse(&table)?)),
        (None, WithoutIommu::Unprotected) => Ok(Firmware::Absent),
        (None, WithoutIommu::Refuse) => Err(StartError::NoIommu),
    }
}

fn slot(
    platform: &mut impl Platform,
    firmware: &Firmware,
    planned: &PlannedUnit,
    inherited: Option<&UnitRecord>,
) -> UnitSlot {
    let unit = match (&planned.left_out, planned.entry, firmware) {
        (Some(LeftOut::Firmware(fault)), ..) => Err(Unusable::Firmware(*fault)),
        (Some(LeftOut::Policy(reason)), ..) => Err(Unusable::Ignored(reason.clone())),
        (None, _, Firmware::Vtd(_)) => {
            let (segment, base) = (planned.segment, planned.base);
            match inherited.map(|record| &record.root) {
                None => vtd::unit::Unit::new(platform, segment, base),
                Some(UnitRoot::Table(root)) => {
                    vtd::unit::Unit::found(platform, segment, base, *root)
                }
                Some(UnitRoot::DeviceTable { .. }) => Err(Unusable::OtherTables),
            }
            .map(Unit::Vtd)
        }
        (None, Coverage::Unit(index), Firmware::Amdvi(table)) => match table.units.get(index) {
            Some(ivhd) => {
                let spec = UnitSpec::new(ivhd, table.info);
                match inherited.map(|record| &record.root) {
                    None => amdvi::unit::Unit::new(platform, &spec),
                    Some(UnitRoot::DeviceTable { segments, empty }) => {
                        let table = DeviceTable::found(segments, *empty);
                        amdvi::unit::Unit::found(platform, &spec, table)
                    }
                    Some(UnitRoot::Table(_)) => Err(Unusable::OtherTables),
                }
                .map(Unit::Amdvi)
            }
            None => Err(Unusable::Unreachable),
        },
        // The plan leaves out what the table rules out.
        (None, Coverage::Refused(_) | Coverage::Nobody, Firmware::Amdvi(_))
        | (None, _, Firmware::Absent) => Err(Unusable::Unreachable),
    };
    UnitSlot {
        kind: firmware.kind(),
        base: planned.base,
        // Firmware of before VT-d's revision 4 always says 4 KiB.
        register_bytes: match &unit {
            Ok(Unit::Vtd(unit)) => {
                planned.register_bytes.max(unit.capabilities().window_bytes() as u64)
            }
            Ok(Unit::Amdvi(_)) | Err(_) => planned.register_bytes,
        },
        segment: planned.segment,
        unit,
    }
}
