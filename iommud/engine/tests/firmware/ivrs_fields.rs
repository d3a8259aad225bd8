//! The values of IVRS tables, compared with those that `iasl -d` prints.
//!
//! The iasl of Debian 12 does not know blocks of type 40h. It is given such a block as one of type 11h, which
//! has the same fields, without the entries of ACPI's devices. Those are shown on literal bytes alone.

use iommu_engine::acpi::ivrs::{
    DeviceEntry, EntryKind, Ivhd, Ivmd, Ivrs, Refusal, Reported, SpecialKind,
};

use crate::corpus::{self, seal};
use crate::iasl::{Comparison, Part, disassemble};
use crate::ivrs::{blocks, ivhd_fields};

/// A type that no block has.
const NO_TYPE: u8 = 0x7f;

#[test]
#[cfg_attr(
    not(all(acpi_corpus, iasl)),
    ignore = "needs the tables of real machines, in ../shared/acpi, and iasl"
)]
fn every_value_of_a_real_table_is_what_iasl_decodes() {
    let tables = corpus::tables("IVRS");
    let mut comparison = Comparison::default();
    for table in &tables {
        // Each type of block in turn, for the richest alone is read.
        for kind in [0x10, 0x11, 0x40] {
            let only = with_blocks_of(&table.bytes, kind);
            let ivrs = Ivrs::parse(&only).unwrap();
            let name = format!("{}-{kind:x}", table.name);
            let shown = disassemble(&name, &as_type_11(&only));
            compare(&mut comparison, &name, &ivrs, shown);
        }
    }
    comparison.end(tables.len());
}

/// The table with its IVHDs of other types hidden.
fn with_blocks_of(table: &[u8], kind: u8) -> Vec<u8> {
    let mut changed = table[..48].to_vec();
    for block in blocks(table) {
        let hidden = ivhd_fields(block.kind).is_some() && block.kind != kind;
        changed.push(if hidden { NO_TYPE } else { block.kind });
        changed.extend(&block.bytes[1..]);
    }
    seal(&mut changed);
    changed
}

/// The table with its IVHDs of type 40h turned into such of type 11h, and without what iasl does not know.
fn as_type_11(table: &[u8]) -> Vec<u8> {
    let mut changed = table[..48].to_vec();
    for block in blocks(table) {
        match block.kind {
            0x40 => {
                let entries = block.entries.iter().filter(|entry| entry[0] != 0xf0).copied();
                let entries: Vec<u8> = entries.flatten().copied().collect();
                let length = u16::try_from(40 + entries.len()).unwrap().to_le_bytes();
                changed.extend([0x11, block.bytes[1], length[0], length[1]]);
                changed.extend(&block.bytes[4..40]);
                changed.extend(entries);
            }
            0x10 | 0x11 | 0x20..0x23 => changed.extend(block.bytes),
            _ => {}
        }
    }
    seal(&mut changed);
    changed
}

fn compare(comparison: &mut Comparison, name: &str, ivrs: &Ivrs, shown: Part) {
    let (header, blocks) = shown.split("Subtable Type");
    let info = header.number("Virtualization Info");
    comparison.same(&format!("{name} IVinfo"), ivrs.info.into_bits().into(), info);
    let refused = |offset| ivrs.refused.iter().find(|refused| refused.offset == offset);
    let (mut units, mut memory) = (ivrs.units.iter(), ivrs.memory.iter());
    for block in blocks {
        let offset = block.offset();
        let place = format!("{name} at {offset:#x}");
        let (fields, entries) = block.split("Entry Type");
        match fields.number("Subtable Type") {
            0x10 | 0x11 => {
                let unit = units.next().expect("no unit of a real machine is refused");
                compare_unit(comparison, &place, unit, &fields, entries);
            }
            0x20..0x23 => {
                let block = match refused(offset).map(|refused| &refused.refusal) {
                    Some(Refusal::Memory(block, _)) => block,
                    _ => memory.next().unwrap(),
                };
                compare_memory(comparison, &place, block, &fields);
            }
            kind => panic!("{place}: type {kind:#x}"),
        }
    }
    comparison.same(&format!("{name} blocks left"), (units.count() + memory.count()) as u64, 0);
}

fn compare_unit(
    comparison: &mut Comparison,
    place: &str,
    unit: &Ivhd,
    fields: &Part,
    entries: Vec<Part>,
) {
    let mut same = |name: &str, ours| {
        comparison.same(&format!("{place} {name}"), ours, fields.number(name));
    };
    same("Flags", unit.flags.into_bits().into());
    same("DeviceId", unit.function.get().into());
    same("Capability Offset", unit.capability.into());
    same("Base Address", unit.registers.get());
    same("PCI Segment Group", unit.segment.into());
    same("Virtualization Info", unit.info.into_bits().into());
    match unit.reported {
        Reported::Features(features) => same("Feature Reporting", features.into_bits().into()),
        Reported::Registers { attributes, extended, extended2 } => {
            same("Attributes", attributes.into_bits().into());
            same("EFR Image", extended);
            // The second image, in its first revision.
            same("Reserved", extended2);
        }
    }
    let ours = unit.entries.iter().filter_map(words);
    let ours: Vec<_> = ours.flatten().collect();
    let theirs: Vec<_> = shown_words(entries).into_iter().flatten().collect();
    comparison.same(&format!("{place} entries"), ours.len() as u64, theirs.len() as u64);
    for (ours, theirs) in ours.into_iter().zip(theirs) {
        comparison.same(&format!("{place} entry"), ours, theirs);
    }
}

/// What an entry says: first and last device, alias if any, settings, more settings, variety, handle.
type Words = [u64; 7];

/// No alias.
const NONE: u64 = u64::MAX;

fn words(entry: &DeviceEntry) -> Option<Words> {
    let (variety, handle) = match entry.kind {
        EntryKind::All | EntryKind::Functions => (0, 0),
        EntryKind::Special { kind: SpecialKind::IoApic, handle } => (1, handle),
        EntryKind::Special { kind: SpecialKind::Hpet, handle } => (2, handle),
        EntryKind::Special { kind: SpecialKind::Unknown(kind), handle } => (kind, handle),
        EntryKind::Named(_) => return None,
    };
    Some([
        entry.first.get().into(),
        entry.last.get().into(),
        entry.alias.map_or(NONE, |alias| alias.get().into()),
        entry.settings.into_bits().into(),
        entry.extended.into_bits().into(),
        variety.into(),
        handle.into(),
    ])
}

fn shown_words(entries: Vec<Part>) -> Vec<Words> {
    let mut words: Vec<Words> = vec![];
    for entry in entries {
        let device = entry.number("Device ID");
        let settings = entry.number("Data Setting");
        let used = || entry.number("Source Used Device ID");
        match entry.number("Entry Type") {
            0x00 | 0x40 => {}
            0x01 => words.push([0, 0xffff, NONE, settings, 0, 0, 0]),
            0x02 | 0x03 => words.push([device, device, NONE, settings, 0, 0, 0]),
            0x04 => words.last_mut().unwrap()[1] = device,
            0x42 | 0x43 => words.push([device, device, used(), settings, 0, 0, 0]),
            0x46 | 0x47 => {
                let more = entry.number("Extended Data");
                words.push([device, device, NONE, settings, more, 0, 0]);
            }
            0x48 => {
                let (variety, handle) = (entry.number("Variety"), entry.number("Handle"));
                words.push([used(), used(), NONE, settings, 0, variety, handle]);
            }
            kind => panic!("entry of type {kind:#x}"),
        }
    }
    words
}

fn compare_memory(comparison: &mut Comparison, place: &str, block: &Ivmd, fields: &Part) {
    let mut same = |name: &str, ours, theirs| {
        comparison.same(&format!("{place} {name}"), ours, theirs);
    };
    same("Flags", block.flags.into_bits().into(), fields.number("Flags"));
    let device = fields.number("DeviceId");
    let (first, last) = match fields.number("Subtable Type") {
        0x20 => (0, 0xffff),
        0x21 => (device, device),
        _ => (device, fields.number("Auxiliary Data")),
    };
    same("first device", block.first.get().into(), first);
    same("last device", block.last.get().into(), last);
    // The segment, in its first revision.
    same("segment", block.segment.into(), fields.number("Reserved") & 0xffff);
    same("start", block.base.get(), fields.number("Start Address"));
    // Whole pages.
    let pages = fields.number("Memory Length").div_ceil(4096);
    same("length", block.bytes(), pages * 4096);
}
