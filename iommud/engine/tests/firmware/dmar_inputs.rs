//! Whatever a DMAR table holds, what is read from it makes sense.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use dma_types::{PAGE_SIZE, PciAddress, SourceId};
use fuzz::Chance;
use iommu_engine::acpi::Coverage;
use iommu_engine::acpi::dmar::{DeviceScope, Dmar, DmarError, Drhd, Refusal};

use crate::corpus;
use crate::dmar::kinds;
use crate::random::{self, try_inputs};

const SIGNATURE: [u8; 4] = *b"DMAR";

#[test]
fn r5_arbitrary_bytes_after_a_header_are_refused_or_make_sense() {
    try_inputs("DMAR, arbitrary", |random| {
        let mut rest = vec![0x26, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        rest.extend(random::bytes(random));
        check_input(random, &rest)
    });
}

#[test]
fn r5_changed_tables_are_refused_or_make_sense() {
    let mut seeds: Vec<_> = corpus::tables("DMAR").into_iter().map(|table| table.bytes).collect();
    let mut random = Chance::of(u64::MAX);
    seeds.extend((0..64).map(|_| [[0; 36].to_vec(), structured(&mut random)].concat()));
    try_inputs("DMAR, changed", |random| {
        let rest = random::mutated(random, &seeds);
        check_input(random, &rest)
    });
}

#[test]
fn r5_well_formed_tables_of_any_content_are_refused_or_make_sense() {
    try_inputs("DMAR, well-formed", |random| {
        let rest = structured(random);
        check_input(random, &rest)
    });
}

/// What follows the header: structures whose lengths are right, of any content.
fn structured(random: &mut Chance) -> Vec<u8> {
    let width = random.one_of(&[38, 45, 0, 255]);
    let mut rest = vec![width, random.byte(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for _ in 0..random.below(7) {
        let (kind, body) = match random.below(8) {
            0..4 => (0, drhd(random)),
            4..7 => (1, rmrr(random)),
            _ => (2 + random.word() % 8, (0..random.below(40)).map(|_| random.byte()).collect()),
        };
        rest.extend(kind.to_le_bytes());
        rest.extend(u16::try_from(4 + body.len()).unwrap().to_le_bytes());
        rest.extend(body);
    }
    rest
}

/// What follows the head of a unit.
fn drhd(random: &mut Chance) -> Vec<u8> {
    let mut body = vec![random.byte() & 1, random.likely_byte()];
    body.extend(random.one_of(&[0u16, 0, 0, 1]).to_le_bytes());
    let base = match random.below(4) {
        0 => random.long(),
        1 => 0xfed9_0000,
        _ => random.next() & 0xfff_ffff_f000,
    };
    body.extend(base.to_le_bytes());
    scopes(random, &mut body);
    body
}

/// What follows the head of a region.
fn rmrr(random: &mut Chance) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(random.one_of(&[0u16, 0, 0, 1]).to_le_bytes());
    let base = random.long();
    body.extend(base.to_le_bytes());
    let limit = match random.below(3) {
        0 => random.long(),
        _ => base.wrapping_add(0x1000 << random.below(24)).wrapping_sub(1),
    };
    body.extend(limit.to_le_bytes());
    scopes(random, &mut body);
    body
}

fn scopes(random: &mut Chance, body: &mut Vec<u8>) {
    for _ in 0..random.below(5) {
        let steps = random.below(4);
        let length = 6 + 2 * steps as u8;
        let kind = random.one_of(&[1, 1, 2, 2, 3, 4, 5, 9]);
        body.extend([kind, length, 0, 0, random.byte(), random.one_of(&[0, 0, 1, 0x80])]);
        for _ in 0..steps {
            body.extend([random.below(34) as u8, random.below(9) as u8]);
        }
    }
}

fn check_input(random: &mut Chance, rest: &[u8]) -> bool {
    let table = random::table(random, SIGNATURE, rest);
    let parsed = Dmar::parse(&table);
    match &parsed {
        Ok(dmar) => check(random, &table, dmar),
        Err(
            DmarError::Structure { offset, .. }
            | DmarError::Scope { offset, .. }
            | DmarError::HalfStep { offset, .. },
        ) => assert!((48..table.len()).contains(offset), "{parsed:?}"),
        Err(DmarError::Table(_)) => {}
    }
    parsed.is_ok()
}

/// Whether a parsed table makes sense, as far as a walk of its own can tell.
fn check(random: &mut Chance, table: &[u8], dmar: &Dmar) {
    let length = u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize;
    for refused in &dmar.refused {
        assert!((48..length).contains(&refused.offset), "{refused:?}");
        assert!(refused.refusal.to_string().contains(" is not used: "));
    }
    let kinds = kinds(&table[..length]);
    let count = |wanted: u16| kinds.iter().filter(|kind| **kind == wanted).count();
    let refused = |wanted: fn(&Refusal) -> bool| {
        dmar.refused.iter().filter(|refused| wanted(&refused.refusal)).count()
    };
    assert_eq!(dmar.units.len() + refused(|it| matches!(it, Refusal::Unit(..))), count(0));
    assert_eq!(dmar.reserved.len() + refused(|it| matches!(it, Refusal::Region(..))), count(1));
    assert_eq!(dmar.skipped.len(), kinds.len() - count(0) - count(1));
    for unit in &dmar.units {
        check_unit(unit);
        check_scopes(&unit.scopes, structure(table, unit.offset));
    }
    let bases: BTreeSet<_> = dmar.units.iter().map(|unit| unit.registers).collect();
    assert_eq!(bases.len(), dmar.units.len());
    let width = u32::from(dmar.host_address_width);
    for region in &dmar.reserved {
        assert!(region.base.is_aligned(PAGE_SIZE) && region.base < region.limit);
        assert_eq!(region.limit.page_offset(), PAGE_SIZE - 1);
        assert!(region.bytes() <= 1 << 32 && region.bytes().is_multiple_of(PAGE_SIZE));
        assert!(region.limit.get().checked_shr(width).unwrap_or(0) == 0);
        check_scopes(&region.scopes, structure(table, region.offset));
    }
    let buses = random.byte()..=random.byte();
    for _ in 0..4 {
        let device = PciAddress::from_source(random.below(2) as u16, SourceId::new(random.word()));
        check_device(dmar, device, &buses);
    }
}

fn check_unit(unit: &Drhd) {
    assert!(unit.registers.get() != 0 && unit.registers.is_aligned(PAGE_SIZE));
    assert!(unit.register_bytes.is_power_of_two());
    assert!(unit.registers.checked_add(unit.register_bytes - 1).is_some());
}

/// The bytes of the structure that starts there.
fn structure(table: &[u8], offset: usize) -> &[u8] {
    let length = u16::from_le_bytes([table[offset + 2], table[offset + 3]]);
    &table[offset..offset + usize::from(length)]
}

/// Each stands in its structure as it was read.
fn check_scopes(scopes: &[DeviceScope], structure: &[u8]) {
    for scope in scopes {
        assert!((1..=124).contains(&scope.path.len()));
        assert!(scope.path.iter().all(|step| step.device() < 32 && step.function() < 8));
        let path: Vec<u8> =
            scope.path.iter().flat_map(|step| [step.device(), step.function()]).collect();
        let length = 6 + path.len();
        let is_it = |bytes: &[u8]| {
            usize::from(bytes[1]) == length
                && bytes[4..6] == [scope.enumeration_id, scope.start_bus]
                && bytes[6..] == path
        };
        assert!(structure.windows(length).any(is_it), "{scope} is not in {structure:x?}");
    }
}

/// What the table says of a device, in a machine where every function is a bridge to the same buses.
fn check_device(dmar: &Dmar, device: PciAddress, buses: &RangeInclusive<u8>) {
    let mut behind = |_| Some(buses.clone());
    match dmar.covering(device, &mut behind) {
        Coverage::Unit(index) => assert_eq!(dmar.units[index].segment, device.segment()),
        Coverage::Refused(index) => match &dmar.refused[index].refusal {
            Refusal::Unit(unit, _) => assert_eq!(unit.segment, device.segment()),
            other => panic!("{other}"),
        },
        Coverage::Nobody => {}
    }
    assert!(dmar.reserved_for(device, &mut behind).all(|it| it.segment == device.segment()));
}
