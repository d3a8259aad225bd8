//! The IVRS parser on tables of real machines: each is understood, or refused with a reason.

use std::collections::BTreeSet;

use iommu_engine::acpi::Coverage;
use iommu_engine::acpi::ivrs::{EntryKind, Ivrs, Refusal, SkippedWhat};

use crate::corpus::{self, Table};

/// A block, and its device entries if it is an IVHD, by a walk that shares nothing with the parser.
pub(crate) struct Block<'a> {
    pub(crate) kind: u8,
    pub(crate) bytes: &'a [u8],
    pub(crate) entries: Vec<&'a [u8]>,
}

impl Block<'_> {
    /// The segment and function of the unit.
    pub(crate) fn unit(&self) -> (u16, u16) {
        let word = |at: usize| u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]);
        (word(16), word(4))
    }
}

/// How many bytes of an IVHD come before its device entries.
pub(crate) fn ivhd_fields(kind: u8) -> Option<usize> {
    match kind {
        0x10 => Some(24),
        0x11 | 0x40 => Some(40),
        _ => None,
    }
}

pub(crate) fn blocks(table: &[u8]) -> Vec<Block<'_>> {
    let end = u32::from_le_bytes([table[4], table[5], table[6], table[7]]) as usize;
    let (mut blocks, mut rest) = (vec![], &table[48..end]);
    while let [kind, _, low, high, ..] = *rest {
        let (bytes, after) = rest.split_at(usize::from(u16::from_le_bytes([low, high])));
        let entries = ivhd_fields(kind).map_or(vec![], |fields| entries(&bytes[fields..]));
        blocks.push(Block { kind, bytes, entries });
        rest = after;
    }
    blocks
}

fn entries(mut list: &[u8]) -> Vec<&[u8]> {
    let mut entries = vec![];
    while let Some(kind) = list.first() {
        let length = match kind {
            0x00..0x40 => 4,
            0x40..0x80 => 8,
            0x80..0xc0 => 16,
            0xc0..0xf0 => 32,
            0xf0 => 22 + usize::from(list[21]),
            0xf1.. => list.len(),
        };
        let (entry, rest) = list.split_at(length);
        entries.push(entry);
        list = rest;
    }
    entries
}

#[test]
#[cfg_attr(not(acpi_corpus), ignore = "needs the tables of real machines, in ../shared/acpi")]
fn r5_every_table_of_a_real_machine_is_understood_or_refused_with_a_reason() {
    let tables = corpus::tables("IVRS");
    let (mut understood, mut in_part, mut refused) = (0, 0, 0);
    let (mut units, mut memory, mut entries, mut named, mut poorer, mut unknown) =
        (0, 0, 0, 0, 0, 0);
    for Table { name, bytes } in &tables {
        let ivrs = match Ivrs::parse(bytes) {
            Ok(ivrs) => ivrs,
            Err(error) => {
                println!("{name}: refused: {error}");
                refused += 1;
                continue;
            }
        };
        for part in &ivrs.refused {
            println!("{name}: at {:#x}: {}", part.offset, part.refusal);
        }
        for part in &ivrs.skipped {
            if !matches!(part.what, SkippedWhat::Poorer(_)) {
                println!("{name}: at {:#x}: skipped: {}", part.offset, part.what);
                unknown += 1;
            }
        }
        if !ivrs.checksum_valid {
            println!("{name}: its checksum is wrong");
        }
        if ivrs.refused.is_empty() {
            understood += 1
        } else {
            in_part += 1
        }

        let blocks = blocks(bytes);
        let refused_units =
            ivrs.refused.iter().filter(|part| matches!(part.refusal, Refusal::Unit(..)));
        let functions: BTreeSet<_> = blocks
            .iter()
            .filter(|block| ivhd_fields(block.kind).is_some())
            .map(Block::unit)
            .collect();
        assert_eq!(ivrs.units.len() + refused_units.count(), functions.len(), "{name}");
        let ivmd = blocks.iter().filter(|block| (0x20..0x23).contains(&block.kind)).count();
        assert_eq!(ivrs.memory.len(), ivmd, "{name}");
        for unit in &ivrs.units {
            let id = (unit.segment, unit.function.get());
            let same = blocks.iter().filter(|it| ivhd_fields(it.kind).is_some() && it.unit() == id);
            let richest = same.max_by_key(|block| block.kind).unwrap();
            // Padding is no entry, nor is the end of a range.
            let told =
                richest.entries.iter().filter(|entry| ![0x00, 0x04, 0x40].contains(&entry[0]));
            assert_eq!(unit.entries.len(), told.count(), "{name}");
            let ours = |entry: &&_| matches!(entry, EntryKind::Named(_));
            let ours = unit.entries.iter().map(|entry| &entry.kind).filter(ours).count();
            assert_eq!(ours, richest.entries.iter().filter(|entry| entry[0] == 0xf0).count());
            assert_eq!(ivrs.covering(unit.address()), Coverage::Nobody);
            entries += unit.entries.len();
            named += ours;
        }
        units += ivrs.units.len();
        memory += ivrs.memory.len();
        let is_poorer = |part: &&_| matches!(part, SkippedWhat::Poorer(_));
        poorer += ivrs.skipped.iter().map(|part| &part.what).filter(is_poorer).count();
    }
    println!(
        "{} tables: {understood} understood, {in_part} with something left out, {refused} refused; \
         {units} units, {entries} device entries, {named} of them of ACPI's devices, {memory} memory blocks, \
         {poorer} poorer blocks and {unknown} unknown ones skipped",
        tables.len()
    );
    assert!(!tables.is_empty());
    assert_eq!(understood + in_part + refused, tables.len());
    assert_eq!(refused, 0, "no table of a real machine that is known has a broken length");
}
