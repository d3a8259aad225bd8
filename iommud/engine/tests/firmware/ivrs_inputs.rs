//! Whatever an IVRS table holds, what is read from it makes sense.

use std::collections::BTreeSet;

use dma_types::{PAGE_SIZE, PciAddress, SourceId};
use fuzz::Chance;
use iommu_engine::acpi::Coverage;
use iommu_engine::acpi::ivrs::{EntryKind, Ivhd, Ivrs, IvrsError, Refusal, SkippedWhat};

use crate::corpus;
use crate::ivrs::{blocks, ivhd_fields};
use crate::random::{self, try_inputs};

const SIGNATURE: [u8; 4] = *b"IVRS";

#[test]
fn r5_arbitrary_bytes_after_a_header_are_refused_or_make_sense() {
    try_inputs("IVRS, arbitrary", |random| {
        let mut rest = vec![0x43, 0x30, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        rest.extend(random::bytes(random));
        check_input(random, &rest)
    });
}

#[test]
fn r5_changed_tables_are_refused_or_make_sense() {
    let mut seeds: Vec<_> = corpus::tables("IVRS").into_iter().map(|table| table.bytes).collect();
    let mut random = Chance::of(u64::MAX);
    seeds.extend((0..64).map(|_| [[0; 36].to_vec(), structured(&mut random)].concat()));
    try_inputs("IVRS, changed", |random| {
        let rest = random::mutated(random, &seeds);
        check_input(random, &rest)
    });
}

#[test]
fn r5_well_formed_tables_of_any_content_are_refused_or_make_sense() {
    try_inputs("IVRS, well-formed", |random| {
        let rest = structured(random);
        check_input(random, &rest)
    });
}

/// What follows the header: blocks whose lengths are right, of any content.
fn structured(random: &mut Chance) -> Vec<u8> {
    let sizes = random.one_of(&[0x0020_3043, 0x0020_3041, 0x0000_2800, 0, u32::MAX]);
    let mut rest = [u64::from(sizes).to_le_bytes(), [0; 8]].concat();
    rest.truncate(12);
    for _ in 0..random.below(7) {
        let block = match random.below(8) {
            0..5 => ivhd(random),
            5 | 6 => ivmd(random),
            _ => (0..random.below(40)).map(|_| random.byte()).collect(),
        };
        let kind = match block.len() {
            // What was made as another block has its kind in the first byte.
            0 => 0x51,
            _ => block[0],
        };
        let flags = random.byte();
        let body = block.get(1..).unwrap_or_default();
        rest.extend([kind, flags]);
        rest.extend(u16::try_from(4 + body.len()).unwrap().to_le_bytes());
        rest.extend(body);
    }
    rest
}

/// The kind of an IVHD, and what follows its head.
fn ivhd(random: &mut Chance) -> Vec<u8> {
    let kind = random.one_of(&[0x10, 0x11, 0x40]);
    let mut block = vec![kind];
    block.extend(random.one_of(&[2u16, 0x4002, 0x8002]).to_le_bytes());
    block.extend(random.word().to_le_bytes());
    let base = match random.below(4) {
        0 => random.long(),
        1 => 0xfeb8_0000,
        _ => random.next() & 0xfff_ffff_c000,
    };
    block.extend(base.to_le_bytes());
    block.extend(random.one_of(&[0u16, 0, 0, 1]).to_le_bytes());
    block.extend(random.word().to_le_bytes());
    block.extend((random.next() as u32).to_le_bytes());
    if kind != 0x10 {
        block.extend(random.next().to_le_bytes());
        block.extend(random.next().to_le_bytes());
    }
    for _ in 0..random.below(12) {
        entry(random, &mut block);
    }
    block
}

fn entry(random: &mut Chance, block: &mut Vec<u8>) {
    let kind = match random.below(16) {
        0 => random.byte(),
        1..4 => 0x04,
        _ => random.one_of(&[0x00, 0x01, 0x02, 0x03, 0x42, 0x43, 0x46, 0x47, 0x48, 0x40, 0xf0]),
    };
    block.push(kind);
    block.extend(random.word().to_le_bytes());
    block.push(random.byte());
    let more = match kind {
        0x00..0x40 => 0,
        0x40..0x80 => 4,
        0x80..0xc0 => 12,
        0xc0..0xf0 => 28,
        0xf0 => {
            block.extend((0..17).map(|_| random.likely_byte()));
            let uid = random.below(12);
            block.push(uid as u8);
            uid
        }
        0xf1.. => random.below(20),
    };
    block.extend((0..more).map(|_| random.likely_byte()));
}

/// The kind of an IVMD, and what follows its head.
fn ivmd(random: &mut Chance) -> Vec<u8> {
    let mut block = vec![random.one_of(&[0x20, 0x21, 0x22])];
    block.extend(random.word().to_le_bytes());
    block.extend(random.word().to_le_bytes());
    block.extend(random.one_of(&[0u64, 0, 1, u64::MAX]).to_le_bytes());
    block.extend(random.long().to_le_bytes());
    block.extend(random.long().to_le_bytes());
    block
}

fn check_input(random: &mut Chance, rest: &[u8]) -> bool {
    let table = random::table(random, SIGNATURE, rest);
    let parsed = Ivrs::parse(&table);
    match &parsed {
        Ok(ivrs) => check(random, &table, ivrs),
        Err(error) => {
            let (IvrsError::Block { offset, .. } | IvrsError::Entry { offset, .. }) = *error else {
                return false;
            };
            assert!((48..table.len()).contains(&offset), "{error}");
        }
    }
    parsed.is_ok()
}

/// Whether a parsed table makes sense, as far as a walk of its own can tell.
fn check(random: &mut Chance, table: &[u8], ivrs: &Ivrs) {
    let length = u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize;
    let mut last = 48;
    for refused in &ivrs.refused {
        assert!((last..length).contains(&refused.offset), "{refused:?}");
        last = refused.offset;
    }
    let mut last = 48;
    for skipped in &ivrs.skipped {
        assert!((last..length).contains(&skipped.offset), "{skipped:?}");
        last = skipped.offset;
    }
    check_accounts(table, ivrs);
    for unit in &ivrs.units {
        check_unit(unit);
    }
    let functions: BTreeSet<_> = ivrs.units.iter().map(Ivhd::address).collect();
    let bases: BTreeSet<_> = ivrs.units.iter().map(|unit| unit.registers).collect();
    assert_eq!((functions.len(), bases.len()), (ivrs.units.len(), ivrs.units.len()));
    let width = u32::from(ivrs.info.physical_size());
    for memory in &ivrs.memory {
        assert!(memory.base.is_aligned(PAGE_SIZE) && memory.base < memory.limit);
        assert_eq!(memory.limit.page_offset(), PAGE_SIZE - 1);
        assert!(memory.bytes() <= 1 << 32 && memory.bytes().is_multiple_of(PAGE_SIZE));
        assert!(memory.limit.get().checked_shr(width).unwrap_or(0) == 0);
        assert!(memory.access().is_some() && memory.first <= memory.last);
    }
    for _ in 0..4 {
        check_device(ivrs, device(random, ivrs));
    }
}

/// A device that is somehow interesting.
fn device(random: &mut Chance, ivrs: &Ivrs) -> PciAddress {
    let segment = random.one_of(&[0, 0, 0, 1]);
    let any = PciAddress::from_source(segment, SourceId::new(random.word()));
    if ivrs.units.is_empty() {
        return any;
    }
    let unit = &ivrs.units[random.below(ivrs.units.len())];
    let source = match (random.below(4), &unit.entries[..]) {
        (0, _) | (_, []) => return any,
        (1, _) => unit.function,
        (2, entries) => entries[random.below(entries.len())].first,
        (_, entries) => entries[random.below(entries.len())].last,
    };
    PciAddress::from_source(unit.segment, source)
}

/// Each block is accounted for once.
fn check_accounts(table: &[u8], ivrs: &Ivrs) {
    let (mut ivhd, mut ivmd, mut others) = (0, 0, 0);
    for block in blocks(table) {
        match block.kind {
            kind if ivhd_fields(kind).is_some() => ivhd += 1,
            0x20..0x23 => ivmd += 1,
            _ => others += 1,
        }
    }
    let refused = |wanted: fn(&Refusal) -> bool| {
        ivrs.refused.iter().filter(|refused| wanted(&refused.refusal)).count()
    };
    let skipped = |wanted: fn(&SkippedWhat) -> bool| {
        ivrs.skipped.iter().filter(|skipped| wanted(&skipped.what)).count()
    };
    let poorer = skipped(|what| matches!(what, SkippedWhat::Poorer(_)));
    let units = ivrs.units.len() + refused(|it| matches!(it, Refusal::Unit(..))) + poorer;
    assert_eq!(units, ivhd);
    assert_eq!(ivrs.memory.len() + refused(|it| matches!(it, Refusal::Memory(..))), ivmd);
    assert_eq!(skipped(|what| matches!(what, SkippedWhat::Block(_))), others);
    for refused in &ivrs.refused {
        assert!(refused.refusal.to_string().contains(" is not used: "));
    }
}

fn check_unit(unit: &Ivhd) {
    assert!(unit.registers.get() != 0 && unit.registers.is_aligned(16 << 10));
    assert!(unit.registers.checked_add(unit.register_bytes - 1).is_some());
    for entry in &unit.entries {
        assert!(entry.first <= entry.last);
        assert!((1..=0x1_0000).contains(&entry.count()));
        assert!(entry.names(entry.first) && entry.names(entry.last));
        if !matches!(entry.kind, EntryKind::All | EntryKind::Functions) {
            assert_eq!((entry.count(), entry.alias), (1, None));
        }
    }
}

fn check_device(ivrs: &Ivrs, device: PciAddress) {
    let unit = match ivrs.covering(device) {
        Coverage::Unit(index) => &ivrs.units[index],
        Coverage::Refused(index) => match &ivrs.refused[index].refusal {
            Refusal::Unit(unit, _) => unit,
            other => panic!("{other}"),
        },
        Coverage::Nobody => {
            assert_eq!(ivrs.alias_of(device), None);
            return;
        }
    };
    assert_eq!(unit.segment, device.segment());
    assert_ne!(unit.function, device.source());
    let alias = ivrs.alias_of(device);
    let entries = || unit.entries.iter();
    assert!(
        entries().any(|entry| entry.names(device.source()) || entry.alias == Some(device.source()))
    );
    if let Some(alias) = alias {
        assert_ne!(alias, device.source());
        assert!(entries().any(|entry| entry.alias == Some(alias)));
    }
    let mut settings = unit.settings().filter(|(sources, _)| sources.contains(&device.source()));
    assert!(settings.all(|(_, settings)| entries().any(|entry| entry.settings == settings)));
    for memory in ivrs.reserved_for(device) {
        let alias = alias.map(|alias| PciAddress::from_source(device.segment(), alias));
        assert!(memory.is_for(device) || alias.is_some_and(|alias| memory.is_for(alias)));
    }
}
