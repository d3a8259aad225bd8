//! What the machine is made of: its units, its PCI functions, and which unit covers which.

pub mod group;
pub mod plan;
pub mod reserved;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use dma_types::{PciAddress, PhysAddr};
use thiserror::Error;

pub use self::group::{Group, GroupId, GroupSpec};
pub use self::reserved::ReservedRange;
pub(crate) use self::reserved::merged;
use crate::acpi::dmar::table::SIGNATURE;
use crate::acpi::dmar::{Coverage, Dmar, Refusal};
use crate::completion::UnitId;
use crate::error::{EngineError, StartError};
use crate::pci::{self, Function};
use crate::platform::Platform;
use crate::unit::{Unit, Unusable};
use crate::vtd;

/// As many bytes of registers as any unit has: AMD-Vi's with performance counters. VT-d's have some KiB.
const REGISTER_BYTES: u64 = 512 << 10;

/// A unit that the firmware's table names, whether it can be used or not.
#[derive(Debug)]
pub struct UnitSlot {
    /// Where its registers are said to be.
    pub base: PhysAddr,
    /// The PCI segment of its devices.
    pub segment: u16,
    /// The unit, or why it is not used.
    pub unit: Result<Unit, Unusable>,
}

impl UnitSlot {
    /// How many bytes of addresses its registers take at the most.
    pub fn register_bytes(&self) -> u64 {
        REGISTER_BYTES
    }

    /// What it is: `VT-d`.
    pub fn kind(&self) -> &'static str {
        self.unit.as_ref().map_or("VT-d", Unit::kind)
    }
}

/// A PCI function, as the engine sees it.
#[derive(Debug)]
pub struct Device {
    /// The function.
    pub function: Function,
    /// The unit that covers it, if one does.
    pub unit: Option<UnitId>,
    /// The memory that firmware reserves for it.
    pub reserved: Vec<ReservedRange>,
    /// The group that it belongs to.
    pub group: GroupId,
}

/// Something odd about the machine that a person should know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Remark {
    /// A part of the firmware's table is not used.
    #[error("DMAR offset {offset:#x}: {refusal}")]
    Refused {
        /// Where in the table.
        offset: usize,
        /// What, and why.
        refusal: String,
    },
    /// The table does not add up, and is used all the same.
    #[error("the DMAR table's checksum is wrong")]
    Checksum,
    /// What a device should reach while nobody holds it, such as the memory that firmware reserves for it, could
    /// not be mapped, so that it reaches nothing.
    #[error("what {address} should reach while nobody holds it could not be mapped: {error}")]
    HomeNotMapped {
        /// The first device of the group.
        address: PciAddress,
        /// Why.
        error: EngineError,
    },
}

/// What was found.
pub struct Found {
    /// The units, in the order of the table; those that the table itself rules out come last.
    pub units: Vec<UnitSlot>,
    /// The PCI functions.
    pub devices: BTreeMap<PciAddress, Device>,
    /// Which of them go together.
    pub groups: Vec<Group>,
    /// What was odd.
    pub remarks: Vec<Remark>,
}

/// Looks at the machine. Units are asked what they can do and are not touched otherwise.
///
/// # Errors
///
/// [`StartError`] if there is no table, or none that can be trusted.
pub fn discover(platform: &mut impl Platform) -> Result<Found, StartError> {
    let table = platform.acpi_table(SIGNATURE)?.ok_or(StartError::NoIommu)?;
    let dmar = Dmar::parse(&table)?;
    if dmar.units.len() + dmar.refused.len() > plan::MAX_UNITS {
        return Err(StartError::TooManyUnits(dmar.units.len() + dmar.refused.len()));
    }
    let mut units: Vec<UnitSlot> = dmar
        .units
        .iter()
        .map(|drhd| UnitSlot {
            base: drhd.registers,
            segment: drhd.segment,
            unit: vtd::unit::Unit::new(platform, drhd.segment, drhd.registers).map(Unit::Vtd),
        })
        .collect();
    // Where the units that the table rules out are in `units`, by where they are in `refused`.
    let mut ruled_out = BTreeMap::new();
    for (index, refused) in dmar.refused.iter().enumerate() {
        if let Refusal::Unit(drhd, fault) = &refused.refusal {
            ruled_out.insert(index, units.len());
            units.push(UnitSlot {
                base: drhd.registers,
                segment: drhd.segment,
                unit: Err(Unusable::Firmware(*fault)),
            });
        }
    }
    let functions = functions(platform, &dmar);
    let mut buses_behind = |bridge: PciAddress| -> Option<RangeInclusive<u8>> {
        let buses = functions.get(&bridge)?.bridge?;
        Some(buses.secondary..=buses.subordinate)
    };
    let mut devices = BTreeMap::new();
    let mut groups = Vec::new();
    for (address, function) in &functions {
        let unit = match dmar.covering(*address, &mut buses_behind) {
            Coverage::Unit(index) => Some(index),
            Coverage::Refused(index) => ruled_out.get(&index).copied(),
            Coverage::Nobody => None,
        };
        let reserved = dmar.reserved_for(*address, &mut buses_behind).map(Into::into);
        let reserved = merged(reserved.collect());
        let device = Device {
            function: *function,
            unit: unit.map(|index| UnitId(index as u16)),
            reserved,
            group: GroupId(groups.len()),
        };
        let spec = GroupSpec {
            segment: address.segment(),
            members: alloc::vec![*address],
            requesters: alloc::vec![address.source()],
        };
        groups.push(Group::new(spec, device.unit));
        devices.insert(*address, device);
    }
    Ok(Found { units, devices, groups, remarks: remarks(&dmar) })
}

/// The functions of every segment that the table speaks of.
fn functions(platform: &mut impl Platform, dmar: &Dmar) -> BTreeMap<PciAddress, Function> {
    // Root buses other than 0 are known only from the scopes that start there.
    let mut roots: BTreeMap<u16, BTreeSet<u8>> = BTreeMap::new();
    let ruled_out = dmar.refused.iter().filter_map(|refused| match &refused.refusal {
        Refusal::Unit(unit, _) => Some(unit),
        Refusal::Region(..) | Refusal::Scope(_) => None,
    });
    let units = dmar.units.iter().chain(ruled_out).map(|unit| (unit.segment, &unit.scopes));
    let regions = dmar.reserved.iter().map(|region| (region.segment, &region.scopes));
    for (segment, scopes) in units.chain(regions) {
        let buses = roots.entry(segment).or_default();
        buses.insert(0);
        buses.extend(scopes.iter().map(|scope| scope.start_bus));
    }
    let mut functions = BTreeMap::new();
    for (segment, buses) in roots {
        functions.extend(pci::scan(platform, segment, buses));
    }
    functions
}

fn remarks(dmar: &Dmar) -> Vec<Remark> {
    let mut remarks = Vec::new();
    if !dmar.checksum_valid {
        remarks.push(Remark::Checksum);
    }
    remarks.extend(dmar.refused.iter().map(|refused| Remark::Refused {
        offset: refused.offset,
        refusal: refused.refusal.to_string(),
    }));
    remarks
}
