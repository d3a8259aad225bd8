//! What a plan asks of the firmware's table, whichever it is.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use dma_types::{PciAddress, SourceId};

use super::finding::{Finding, Oddity};
use super::unit::{LeftOut, PlannedUnit};
use crate::acpi::dmar::{self, Dmar, ScopeKind};
use crate::acpi::ivrs::{self, EntryKind, Ivrs};
use crate::acpi::{Coverage, UnitFault};
use crate::machine::reserved::ReservedRange;
use crate::pci::{self, Function, acs};
use crate::platform::ConfigSpace;

/// The firmware's table of IOMMUs, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// Intel's.
    Vtd(Dmar),
    /// AMD's.
    Amdvi(Ivrs),
    /// There is none: the machine has no IOMMU.
    Absent,
}

/// Memory that the table reserves.
pub(super) struct Region {
    pub(super) offset: usize,
    pub(super) range: ReservedRange,
    /// An earlier one of which this is a copy.
    pub(super) copy_of: Option<usize>,
}

type Functions = BTreeMap<PciAddress, Function>;

/// The buses behind a bridge, as the coverage of DMAR wants to know them.
fn buses_behind(
    functions: &Functions,
) -> impl FnMut(PciAddress) -> Option<RangeInclusive<u8>> + '_ {
    |bridge| {
        let buses = functions.get(&bridge)?.bridge?;
        Some(buses.secondary..=buses.subordinate)
    }
}

impl Firmware {
    /// The table's name.
    pub const fn table(&self) -> &'static str {
        match self {
            Self::Vtd(_) => "DMAR",
            Self::Amdvi(_) => "IVRS",
            Self::Absent => "no table",
        }
    }

    /// Whose units it names.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Vtd(_) => "VT-d",
            Self::Amdvi(_) => "AMD-Vi",
            Self::Absent => "none",
        }
    }

    /// Every PCI function of the segments that the table speaks of.
    ///
    /// Root buses other than 0 are known only from what the table names, so what is behind those that it
    /// does not name is not found; nor does any unit translate for it.
    pub fn scan(&self, config: &mut impl ConfigSpace) -> BTreeMap<PciAddress, Function> {
        let mut functions = BTreeMap::new();
        for (segment, buses) in self.roots() {
            functions.extend(pci::scan(config, segment, buses));
        }
        functions
    }

    /// [Scans](Self::scan), and has ports [send up](acs::enable_all) what a unit is to see, if there are any units.
    /// The ports that do not obey are returned, too.
    pub fn scan_enabling(&self, config: &mut impl ConfigSpace) -> (Functions, Vec<PciAddress>) {
        let mut functions = self.scan(config);
        let stubborn = match self {
            Self::Vtd(_) | Self::Amdvi(_) => acs::enable_all(config, &mut functions),
            Self::Absent => Vec::new(),
        };
        (functions, stubborn)
    }

    /// The buses of each segment that the table names, and bus 0.
    fn roots(&self) -> BTreeMap<u16, BTreeSet<u8>> {
        let mut roots: BTreeMap<u16, BTreeSet<u8>> = BTreeMap::new();
        match self {
            Self::Vtd(table) => {
                let units = vtd_units(table).map(|(_, unit, _)| (unit.segment, &unit.scopes));
                let regions = table.reserved.iter().map(|region| (region.segment, &region.scopes));
                for (segment, scopes) in units.chain(regions) {
                    let buses = roots.entry(segment).or_default();
                    buses.insert(0);
                    buses.extend(scopes.iter().map(|scope| scope.start_bus));
                }
            }
            Self::Amdvi(table) => {
                for (_, unit, _) in amdvi_units(table) {
                    let buses = roots.entry(unit.segment).or_default();
                    buses.extend([0, unit.function.bus()]);
                    buses.extend(unit.entries.iter().map(|entry| entry.first.bus()));
                }
            }
            Self::Absent => drop(roots.insert(0, BTreeSet::from([0]))),
        }
        roots
    }

    /// The units, in the order of the table, those that it rules out included.
    pub(super) fn units(&self, functions: &Functions) -> Vec<PlannedUnit> {
        let mut units: Vec<PlannedUnit> = match self {
            Self::Vtd(table) => {
                let units = vtd_units(table);
                units.map(|(entry, unit, fault)| plan_vtd(entry, unit, fault, functions)).collect()
            }
            Self::Amdvi(table) => {
                let units = amdvi_units(table);
                units.map(|(entry, unit, fault)| plan_amdvi(entry, unit, fault)).collect()
            }
            Self::Absent => Vec::new(),
        };
        units.sort_by_key(|unit| unit.offset);
        units
    }

    /// Who translates for a device.
    pub(super) fn covering(&self, device: PciAddress, functions: &Functions) -> Coverage {
        match self {
            Self::Vtd(table) => table.covering(device, &mut buses_behind(functions)),
            Self::Amdvi(table) => table.covering(device),
            Self::Absent => Coverage::Nobody,
        }
    }

    /// How a device signs its requests by the table, if not with its own id alone.
    pub(super) fn alias_of(&self, device: PciAddress) -> Option<SourceId> {
        match self {
            Self::Vtd(_) | Self::Absent => None,
            Self::Amdvi(table) => table.alias_of(device),
        }
    }

    /// The memory that the table reserves, in its order.
    pub(super) fn regions(&self) -> Vec<Region> {
        let mut regions = Vec::new();
        match self {
            Self::Vtd(table) => {
                let mut seen = BTreeMap::new();
                for region in &table.reserved {
                    let key = (region.segment, region.base, region.limit);
                    let earlier = seen.insert(key, region).filter(|it| it.scopes == region.scopes);
                    regions.push(Region {
                        offset: region.offset,
                        range: region.into(),
                        copy_of: earlier.map(|earlier| earlier.offset),
                    });
                }
            }
            Self::Amdvi(table) => {
                let mut seen = BTreeMap::new();
                for memory in &table.memory {
                    let Some(range) = ReservedRange::from_ivmd(memory) else { continue };
                    let devices = (memory.segment, memory.first, memory.last);
                    let key = (devices, memory.base, memory.limit, range.access);
                    let earlier = seen.insert(key, memory.offset);
                    regions.push(Region { offset: memory.offset, range, copy_of: earlier });
                }
            }
            Self::Absent => {}
        }
        regions
    }

    /// Where in the table the memory is that is reserved for a device.
    pub(super) fn reserved_for(&self, device: PciAddress, functions: &Functions) -> Vec<usize> {
        match self {
            Self::Vtd(table) => {
                let mut buses_behind = buses_behind(functions);
                let regions = table.reserved_for(device, &mut buses_behind);
                regions.map(|region| region.offset).collect()
            }
            Self::Amdvi(table) => table.reserved_for(device).map(|memory| memory.offset).collect(),
            Self::Absent => Vec::new(),
        }
    }

    /// What is odd about the table itself.
    pub(super) fn findings(&self, functions: &Functions) -> Vec<Finding> {
        let mut findings = Vec::new();
        let checksum_valid = match self {
            Self::Vtd(table) => table.checksum_valid,
            Self::Amdvi(table) => table.checksum_valid,
            Self::Absent => true,
        };
        if !checksum_valid {
            findings.push(Finding { table: self.table(), offset: None, oddity: Oddity::Checksum });
        }
        let mut add = |offset, oddity| {
            findings.push(Finding { table: self.table(), offset: Some(offset), oddity });
        };
        match self {
            Self::Vtd(table) => {
                for refused in &table.refused {
                    add(refused.offset, Oddity::Refused(refused.refusal.to_string()));
                }
                whole_segments(table, &mut add);
                if !functions.is_empty() {
                    lost_scopes(table, functions, &mut add);
                }
            }
            Self::Amdvi(table) => {
                for refused in &table.refused {
                    add(refused.offset, Oddity::Refused(refused.refusal.to_string()));
                }
            }
            Self::Absent => {}
        }
        findings
    }
}

/// The units of Intel's table, those that are refused with why.
fn vtd_units(table: &Dmar) -> impl Iterator<Item = (Coverage, &dmar::Drhd, Option<UnitFault>)> {
    let sound = table.units.iter().enumerate();
    let sound = sound.map(|(index, unit)| (Coverage::Unit(index), unit, None));
    let refused = table.refused.iter().enumerate();
    let refused = refused.filter_map(|(index, refused)| match &refused.refusal {
        dmar::Refusal::Unit(unit, fault) => Some((Coverage::Refused(index), unit, Some(*fault))),
        dmar::Refusal::Region(..) | dmar::Refusal::Scope(_) => None,
    });
    sound.chain(refused)
}

/// The units of AMD's table, likewise.
fn amdvi_units(table: &Ivrs) -> impl Iterator<Item = (Coverage, &ivrs::Ivhd, Option<UnitFault>)> {
    let sound = table.units.iter().enumerate();
    let sound = sound.map(|(index, unit)| (Coverage::Unit(index), unit, None));
    let refused = table.refused.iter().enumerate();
    let refused = refused.filter_map(|(index, refused)| match &refused.refusal {
        ivrs::Refusal::Unit(unit, fault) => Some((Coverage::Refused(index), unit, Some(*fault))),
        ivrs::Refusal::Memory(..) | ivrs::Refusal::Entry(_) => None,
    });
    sound.chain(refused)
}

fn plan_vtd(
    entry: Coverage,
    unit: &dmar::Drhd,
    fault: Option<UnitFault>,
    functions: &Functions,
) -> PlannedUnit {
    let mut buses_behind = buses_behind(functions);
    let scopes = unit.scopes.iter().map(|scope| {
        let end = scope.resolve(unit.segment, &mut buses_behind).ok();
        match end.filter(|_| scope.path.len() > 1) {
            Some(end) => alloc::format!("{scope} = {}", end.source()),
            None => scope.to_string(),
        }
    });
    PlannedUnit {
        entry,
        offset: unit.offset,
        base: unit.registers,
        register_bytes: unit.register_bytes,
        segment: unit.segment,
        function: None,
        has_the_rest: unit.include_pci_all,
        scopes: scopes.collect(),
        left_out: fault.map(LeftOut::Firmware),
    }
}

fn plan_amdvi(entry: Coverage, unit: &ivrs::Ivhd, fault: Option<UnitFault>) -> PlannedUnit {
    let all = |entry: &&ivrs::DeviceEntry| entry.kind == EntryKind::All;
    let scopes = unit.entries.iter().filter(|entry| !all(entry));
    PlannedUnit {
        entry,
        offset: unit.offset,
        base: unit.registers,
        register_bytes: unit.register_bytes,
        segment: unit.segment,
        function: Some(unit.address()),
        has_the_rest: unit.entries.iter().any(|entry| all(&entry)),
        scopes: scopes.map(ToString::to_string).collect(),
        left_out: fault.map(LeftOut::Firmware),
    }
}

/// Units with INCLUDE_PCI_ALL: of each segment there should be one, and it should be the last.
fn whole_segments(table: &Dmar, add: &mut impl FnMut(usize, Oddity)) {
    let mut firsts: BTreeMap<u16, usize> = BTreeMap::new();
    let mut lasts: BTreeMap<u16, usize> = BTreeMap::new();
    for unit in &table.units {
        lasts.insert(unit.segment, unit.offset);
        if !unit.include_pci_all {
            continue;
        }
        let first = *firsts.entry(unit.segment).or_insert(unit.offset);
        if first != unit.offset {
            add(unit.offset, Oddity::SecondRest { first, segment: unit.segment });
        }
    }
    for (segment, first) in firsts {
        if lasts.get(&segment) != Some(&first) {
            add(first, Oddity::RestNotLast);
        }
    }
}

/// Scopes whose path leads through what is no bridge. One that ends at no function may be for a slot.
fn lost_scopes(table: &Dmar, functions: &Functions, add: &mut impl FnMut(usize, Oddity)) {
    let mut buses_behind = buses_behind(functions);
    let units = table.units.iter().map(|unit| (unit.offset, unit.segment, &unit.scopes));
    let regions =
        table.reserved.iter().map(|region| (region.offset, region.segment, &region.scopes));
    for (offset, segment, scopes) in units.chain(regions) {
        for scope in scopes.iter().filter(|scope| !matches!(scope.kind, ScopeKind::Unknown(_))) {
            if let Err(error) = scope.resolve(segment, &mut buses_behind) {
                add(offset, Oddity::LostScope { scope: scope.to_string(), error });
            }
        }
    }
}
