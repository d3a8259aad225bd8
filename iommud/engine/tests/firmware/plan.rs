//! Plans from tables of real machines and from hostile ones, for machines that have nothing to do with them.

use std::collections::{BTreeMap, BTreeSet};

use dma_types::{PciAddress, PhysAddr};
use fuzz::Chance;
use iommu_engine::acpi::Coverage;
use iommu_engine::acpi::dmar::Dmar;
use iommu_engine::acpi::ivrs::Ivrs;
use iommu_engine::machine::plan::{Firmware, Given, Oddity, Plan};
use iommu_engine::pci::Function;
use iommu_engine::platform::{ConfigSpace, Segment};

use crate::corpus::{self, Table};
use crate::random::{self, try_inputs};

/// Half a GiB that iommud gives out.
const ARENA: Segment = Segment { start: PhysAddr::new(0x4000_0000), bytes: 0x2000_0000 };

/// Configuration space that is the same whenever it is read, and makes no sense.
struct Nonsense(u64);

impl Nonsense {
    fn at(&self, function: PciAddress, offset: u16) -> u64 {
        let place = u64::from(function.segment()) << 32
            | u64::from(function.source().get()) << 16
            | u64::from(offset);
        Chance::of(self.0.wrapping_add(place.wrapping_mul(0x1_0000_0001))).next()
    }
}

impl ConfigSpace for Nonsense {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        // A few devices on a few buses, so that many are met again.
        if function.bus() & 0x78 != 0
            || function.device() > 3
            || !self.at(function, 1).is_multiple_of(4)
        {
            return u32::MAX;
        }
        let read = self.at(function, offset);
        match offset {
            // A list of capabilities; a bridge every other time, to a bus that may be there.
            0x04 => 0x0010_0000,
            0x0c => 0x0080_0000 | (read as u32 & 1) << 16,
            0x18 => read as u32 & 0x0087_8787,
            0x34 => 0x40,
            // PCI Express, or something else.
            0x40 => read as u32 & 0x00f0_0000 | if read >> 63 == 0 { 0x10 } else { 0x4001 },
            0x100 => 0x0001_000c | (read >> 63) as u32,
            _ => read as u32,
        }
    }

    fn config_write(&mut self, _: PciAddress, _: u16, _: u32) {}
}

fn dmar(bytes: &[u8]) -> Option<Firmware> {
    Dmar::parse(bytes).ok().map(Firmware::Vtd)
}

fn ivrs(bytes: &[u8]) -> Option<Firmware> {
    Ivrs::parse(bytes).ok().map(Firmware::Amdvi)
}

/// Whether a plan holds together.
fn check(plan: &Plan, functions: &BTreeMap<PciAddress, Function>) {
    assert!(plan.units().is_sorted_by_key(|unit| unit.offset));
    assert!(plan.units().iter().all(|unit| unit.entry != Coverage::Nobody));
    assert_eq!(plan.devices().len(), functions.len());
    let mut requesters = BTreeSet::new();
    for (index, group) in plan.groups().iter().enumerate() {
        for requester in &group.topology.requesters {
            assert!(requesters.insert((group.topology.segment, *requester)));
        }
        for member in &group.topology.members {
            let device = &plan.devices()[member];
            assert_eq!(device.group, index);
            if let (Ok(unit), true) = (group.unit, device.is_endpoint()) {
                assert_eq!(device.unit, unit);
            }
        }
    }
    for device in plan.devices().values() {
        assert!(device.unit.is_none_or(|unit| usize::from(unit.0) < plan.units().len()));
        assert_eq!(device.requesters.is_empty(), device.function.bridge.is_some());
        for range in &device.reserved {
            let (start, end) = (range.start.get(), range.start.get().wrapping_add(range.bytes));
            assert!(end <= ARENA.start.get() || start >= ARENA.start.get() + ARENA.bytes);
            assert!(end <= 0xfee0_0000 || start >= 0xfef0_0000);
        }
    }
    for finding in plan.findings() {
        assert!(!finding.to_string().is_empty());
    }
}

/// Plans for nothing, for a machine of nonsense, and for what has become of that later.
fn try_firmware(firmware: &Firmware, seed: u64) {
    let given = Given { arenas: &[ARENA], ..Given::default() };
    let Ok(alone) = Plan::new(firmware.clone(), &BTreeMap::new(), &given) else { return };
    check(&alone, &BTreeMap::new());
    let functions = firmware.scan(&mut Nonsense(seed));
    let Ok(mut plan) = Plan::new(firmware.clone(), &functions, &given) else { return };
    check(&plan, &functions);
    let places: Vec<_> = plan.devices().iter().map(|(at, device)| (*at, device.group)).collect();
    let placed = plan.grow(&firmware.scan(&mut Nonsense(seed + 1)));
    assert!(placed.iter().all(|function| !functions.contains_key(function)));
    assert_eq!(plan.devices().len(), functions.len() + placed.len());
    for (at, group) in places {
        assert_eq!(plan.devices()[&at].group, group);
        assert!(plan.groups()[group].topology.members.contains(&at));
    }
}

/// Plans for tables of real machines without anything known of their functions. Says how many had findings.
fn plan_all(
    tables: &[Table],
    parse: fn(&[u8]) -> Option<Firmware>,
    is_unit: fn(&[u8]) -> bool,
) -> usize {
    let mut with_findings = 0;
    for (number, Table { name, bytes }) in tables.iter().enumerate() {
        let firmware = parse(bytes).unwrap();
        let plan = Plan::new(firmware.clone(), &BTreeMap::new(), &Given::default()).unwrap();
        for unit in plan.units() {
            assert!(is_unit(&bytes[unit.offset..]), "{name}: {:#x}", unit.offset);
        }
        for finding in plan.findings() {
            println!("{name}: {finding}");
            let odd = matches!(finding.oddity, Oddity::Checksum | Oddity::Refused(_));
            assert!(odd, "what is known of real machines is nothing but broken parts");
        }
        with_findings += usize::from(!plan.findings().is_empty());
        try_firmware(&firmware, number as u64);
    }
    println!("{} tables: {with_findings} with findings", tables.len());
    assert!(!tables.is_empty());
    with_findings
}

#[test]
#[cfg_attr(not(acpi_corpus), ignore = "needs the tables of real machines, in ../shared/acpi")]
fn r5_for_every_dmar_of_a_real_machine_there_is_a_plan() {
    let is_unit = |structure: &[u8]| structure.starts_with(&[0, 0]);
    assert_eq!(plan_all(&corpus::tables("DMAR"), dmar, is_unit), 2);
}

#[test]
#[cfg_attr(not(acpi_corpus), ignore = "needs the tables of real machines, in ../shared/acpi")]
fn r5_for_every_ivrs_of_a_real_machine_there_is_a_plan() {
    let is_unit = |block: &[u8]| matches!(block[0], 0x10 | 0x11 | 0x40);
    plan_all(&corpus::tables("IVRS"), ivrs, is_unit);
}

#[test]
fn r5_for_changed_tables_there_is_a_plan_or_none_and_no_panic() {
    for (name, signature, parse) in [
        ("plan from DMAR, changed", "DMAR", dmar as fn(&[u8]) -> _),
        ("plan from IVRS, changed", "IVRS", ivrs),
    ] {
        let seeds: Vec<_> = corpus::tables(signature).into_iter().map(|it| it.bytes).collect();
        try_inputs(name, |random| {
            let rest = random::mutated(random, &seeds);
            let signature = signature.as_bytes().try_into().unwrap();
            let firmware = parse(&random::table(random, signature, &rest));
            if let Some(firmware) = &firmware {
                try_firmware(firmware, random.next() >> 1);
            }
            firmware.is_some()
        });
    }
}
