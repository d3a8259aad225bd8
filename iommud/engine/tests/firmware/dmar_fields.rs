//! The values of DMAR tables, compared with those that `iasl -d` prints.
//!
//! The iasl of Debian 12 does not know structures of kind 5 (SATC) and above, and ends at the first.

use iommu_engine::acpi::dmar::{DeviceScope, Dmar, Refusal, ScopeKind, StructureKind};

use crate::corpus;
use crate::iasl::{Comparison, Part, disassemble};

#[test]
#[cfg_attr(
    not(all(acpi_corpus, iasl)),
    ignore = "needs the tables of real machines, in ../shared/acpi, and iasl"
)]
fn every_value_of_a_real_table_is_what_iasl_decodes() {
    let tables = corpus::tables("DMAR");
    let mut comparison = Comparison::default();
    for table in &tables {
        let dmar = Dmar::parse(&table.bytes).unwrap();
        let shown = disassemble(&table.name, &table.bytes);
        compare(&mut comparison, &table.name, &dmar, shown);
    }
    comparison.end(tables.len());
}

fn compare(comparison: &mut Comparison, name: &str, dmar: &Dmar, shown: Part) {
    let (header, structures) = shown.split("Subtable Type");
    let mut same = |what: &str, ours, theirs| {
        comparison.same(&format!("{name} {what}"), ours, theirs);
    };
    // iasl shows the field, which is one less than the width.
    let width = u64::from(dmar.host_address_width);
    same("width", width, header.number("Host Address Width") + 1);
    same("flags", dmar.flags.into_bits().into(), header.number("Flags"));

    let refused = || dmar.refused.iter();
    let mut units = dmar.units.iter().collect::<Vec<_>>().into_iter();
    let mut regions = dmar.reserved.iter().collect::<Vec<_>>().into_iter();
    let mut skipped = dmar.skipped.iter();
    let gave_up = structures.last().is_some_and(|last| last.number("Subtable Type") > 4);
    for structure in structures {
        let offset = structure.offset();
        let place = |what: &str| format!("at {offset:#x}: {what}");
        let out =
            refused().find(|refused| refused.offset == offset).map(|refused| &refused.refusal);
        let (fields, scopes) = structure.split("Device Scope Type");
        match fields.number("Subtable Type") {
            0 => {
                let unit = match out {
                    Some(Refusal::Unit(unit, _)) => unit,
                    _ => units.next().unwrap(),
                };
                same(&place("segment"), unit.segment.into(), fields.number("PCI Segment Number"));
                let base = fields.number("Register Base Address");
                same(&place("registers"), unit.registers.get(), base);
                let flag = u64::from(unit.include_pci_all);
                same(&place("flags"), flag, fields.number("Flags") & 1);
                // iasl knows the size as reserved yet.
                let order = u64::from((unit.register_bytes / 4096).ilog2());
                same(&place("size"), order, fields.number("Reserved") & 0xf);
                compare_scopes(&mut same, &unit.scopes, scopes);
            }
            1 => {
                let region = match out {
                    Some(Refusal::Region(region, _)) => region,
                    _ => regions.next().unwrap(),
                };
                same(&place("segment"), region.segment.into(), fields.number("PCI Segment Number"));
                same(&place("base"), region.base.get(), fields.number("Base Address"));
                same(&place("limit"), region.limit.get(), fields.number("End Address (limit)"));
                compare_scopes(&mut same, &region.scopes, scopes);
            }
            kind => {
                let passed = skipped.next().unwrap();
                same(&place("offset"), passed.offset as u64, offset as u64);
                let ours = StructureKind::from(u16::try_from(kind).unwrap()) == passed.kind;
                same(&place("kind"), ours.into(), 1);
            }
        }
    }
    same("structures that iasl does not show", (units.count() + regions.count()) as u64, 0);
    if !gave_up {
        same("structures that iasl does not show", skipped.count() as u64, 0);
    }
}

fn compare_scopes(same: &mut dyn FnMut(&str, u64, u64), scopes: &[DeviceScope], shown: Vec<Part>) {
    same("number of scopes", scopes.len() as u64, shown.len() as u64);
    for (scope, shown) in scopes.iter().zip(shown) {
        let place = format!("scope at {:#x}", shown.offset());
        let kind = match scope.kind {
            ScopeKind::Endpoint => 1,
            ScopeKind::SubHierarchy => 2,
            ScopeKind::IoApic => 3,
            ScopeKind::Hpet => 4,
            ScopeKind::NamespaceDevice => 5,
            ScopeKind::Unknown(code) => code,
        };
        same(&place, kind.into(), shown.number("Device Scope Type"));
        same(&place, scope.enumeration_id.into(), shown.number("Enumeration ID"));
        same(&place, scope.start_bus.into(), shown.number("PCI Bus Number"));
        let steps = shown.0.iter().filter(|field| field.name == "PCI Path");
        let steps: Vec<_> = steps.map(|field| path_step(&field.value)).collect();
        same(&place, scope.path.len() as u64, steps.len() as u64);
        for (step, (device, function)) in scope.path.iter().zip(steps) {
            same(&place, step.device().into(), device);
            same(&place, step.function().into(), function);
        }
    }
}

/// `1F,00`
fn path_step(text: &str) -> (u64, u64) {
    let (device, function) = text.trim().split_once(',').unwrap();
    let number = |digits| u64::from_str_radix(digits, 16).unwrap();
    (number(device), number(function))
}
