use super::*;
use crate::acpi::dmar::{DmarFlags, Refused};
use crate::acpi::dmar::{PathStep, ResolveError, UnitFault};
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use dma_types::PhysAddr;
use proptest::prelude::*;

/// A machine whose bridges have these bus numbers.
fn machine(
    bridges: &[(&str, u8, u8)],
) -> impl FnMut(PciAddress) -> Option<RangeInclusive<u8>> + use<> {
    let bridges: BTreeMap<PciAddress, _> =
        bridges.iter().map(|&(at, first, last)| (address(at), first..=last)).collect();
    move |bridge| bridges.get(&bridge).cloned()
}

fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn scope(kind: ScopeKind, start_bus: u8, path: &[(u8, u8)]) -> DeviceScope {
    let path = path.iter().map(|&(device, function)| PathStep::new(device, function).unwrap());
    DeviceScope { kind, enumeration_id: 0, start_bus, path: path.collect() }
}

fn unit(include_pci_all: bool, scopes: Vec<DeviceScope>) -> Drhd {
    Drhd {
        offset: 0,
        segment: 0,
        include_pci_all,
        registers: PhysAddr::new(0),
        register_bytes: 4096,
        scopes,
    }
}

fn table(units: Vec<Drhd>) -> Dmar {
    Dmar {
        checksum_valid: true,
        host_address_width: 39,
        flags: DmarFlags::new(),
        units,
        reserved: vec![],
        refused: vec![],
        skipped: vec![],
    }
}

const ENDPOINT: ScopeKind = ScopeKind::Endpoint;
const BRIDGE: ScopeKind = ScopeKind::SubHierarchy;

/// Two root ports on bus 0; behind the first a bridge with two buses of its own.
const BRIDGES: [(&str, u8, u8); 3] = [("00:1c.0", 1, 4), ("01:00.0", 3, 4), ("00:1d.0", 5, 5)];

#[test]
fn a_path_is_followed_through_bridges() {
    let follow = |path: &[(u8, u8)]| {
        scope(ENDPOINT, 0, path)
            .resolve(7, &mut machine(&[("0007:00:1c.0", 1, 4), ("0007:01:00.0", 3, 4)]))
    };
    assert_eq!(follow(&[(2, 1)]), Ok(address("0007:00:02.1")));
    assert_eq!(follow(&[(0x1c, 0), (5, 6)]), Ok(address("0007:01:05.6")));
    assert_eq!(follow(&[(0x1c, 0), (0, 0), (2, 7)]), Ok(address("0007:03:02.7")));
    assert_eq!(
        follow(&[(0x1c, 0), (2, 0), (2, 7)]),
        Err(ResolveError::NotABridge(address("0007:01:02.0")))
    );
    assert_eq!(follow(&[]), Err(ResolveError::NoPath));
    assert_eq!(
        follow(&[(9, 0), (0, 0)]).unwrap_err().to_string(),
        "its path goes through 0007:00:09.0, which is no working bridge"
    );
}

#[test]
fn a_scope_prints_what_it_means_and_the_way_there() {
    let bridge = scope(BRIDGE, 0x80, &[(0x1c, 4), (0, 0)]);
    assert_eq!(bridge.to_string(), "bridge 80:1c.4/00.0");
    let ioapic = DeviceScope { enumeration_id: 2, ..scope(ScopeKind::IoApic, 0xf0, &[(31, 0)]) };
    assert_eq!(ioapic.to_string(), "ioapic 2 at f0:1f.0");
}

#[test]
fn r5_bus_numbers_that_make_no_sense_are_no_way() {
    // Not configured; back to its own bus; backwards.
    for (first, last) in [(0, 0), (0, 255), (1, 9), (3, 2)] {
        let mut machine = machine(&[("01:00.0", first, last)]);
        let path = scope(BRIDGE, 1, &[(0, 0), (0, 0)]).resolve(0, &mut machine);
        assert_eq!(path, Err(ResolveError::NotABridge(address("01:00.0"))));
        // The bridge itself is named all the same, but no bus is behind it.
        let table = table(vec![unit(false, vec![scope(BRIDGE, 1, &[(0, 0)])])]);
        assert_eq!(table.covering(address("01:00.0"), &mut machine), Coverage::Unit(0));
        assert_eq!(table.covering(address("01:01.0"), &mut machine), Coverage::Nobody);
        assert_eq!(table.covering(address("03:00.0"), &mut machine), Coverage::Nobody);
    }
}

#[test]
fn the_closest_scope_wins_and_include_pci_all_comes_last() {
    let table = table(vec![
        unit(true, vec![]),
        unit(false, vec![scope(BRIDGE, 0, &[(0x1c, 0)])]),
        unit(false, vec![scope(BRIDGE, 0, &[(0x1c, 0), (0, 0)])]),
        unit(
            false,
            vec![scope(ENDPOINT, 0, &[(0x1c, 0), (0, 0), (7, 0)]), scope(ENDPOINT, 0, &[(2, 0)])],
        ),
    ]);
    let covering = |device| table.covering(address(device), &mut machine(&BRIDGES));
    for (device, unit) in [
        ("00:02.0", 3),
        ("00:02.1", 0),
        ("00:1c.0", 1),
        ("01:00.0", 2),
        ("01:00.1", 1),
        ("02:00.0", 1),
        ("03:00.0", 2),
        ("03:07.0", 3),
        ("04:1f.7", 2),
        ("05:00.0", 0),
        ("00:1d.0", 0),
    ] {
        assert_eq!(covering(device), Coverage::Unit(unit), "{device}");
    }
    assert_eq!(covering("0001:00:02.0"), Coverage::Nobody);
}

#[test]
fn scopes_that_send_interrupts_cover_no_device_and_unknown_ones_nothing() {
    for kind in [ScopeKind::IoApic, ScopeKind::Hpet, ScopeKind::Unknown(9)] {
        let table = table(vec![unit(false, vec![scope(kind, 0, &[(0x1f, 0)])])]);
        assert_eq!(table.covering(address("00:1f.0"), &mut machine(&[])), Coverage::Nobody);
    }
    let table = table(vec![unit(false, vec![scope(ScopeKind::NamespaceDevice, 0, &[(0x15, 1)])])]);
    assert_eq!(table.covering(address("00:15.1"), &mut machine(&[])), Coverage::Unit(0));
}

#[test]
fn r1_what_a_refused_unit_covers_is_nobody_elses() {
    let mut table = table(vec![unit(true, vec![])]);
    let refused = unit(false, vec![scope(BRIDGE, 0, &[(0x1c, 0)])]);
    let refusal = Refusal::Unit(refused.clone(), UnitFault::NoBase);
    table.refused.push(Refused { offset: 0, refusal });
    let covering = |table: &Dmar, device| table.covering(address(device), &mut machine(&BRIDGES));
    assert_eq!(covering(&table, "02:00.0"), Coverage::Refused(0));
    assert_eq!(covering(&table, "00:02.0"), Coverage::Unit(0));
    // Where both name it, the one that works counts: firmware that lists a unit twice.
    table.units.push(refused);
    assert_eq!(covering(&table, "02:00.0"), Coverage::Unit(1));
}

#[test]
fn a_region_is_reserved_for_those_it_names() {
    let mut table = table(vec![]);
    let region = |base, scopes| Rmrr {
        offset: 0,
        segment: 0,
        base: PhysAddr::new(base),
        limit: PhysAddr::new(base + 0xfff),
        scopes,
    };
    table.reserved = vec![
        region(
            0x1000,
            vec![scope(ENDPOINT, 0, &[(0x14, 0)]), scope(ENDPOINT, 0, &[(0x1d, 0), (0, 0)])],
        ),
        region(0x2000, vec![]),
        region(0x3000, vec![scope(BRIDGE, 0, &[(0x1d, 0)])]),
    ];
    let reserved = |device| {
        let regions: Vec<_> = table
            .reserved_for(address(device), &mut machine(&BRIDGES))
            .map(|it| it.base.get())
            .collect();
        regions
    };
    assert_eq!(reserved("00:14.0"), [0x1000]);
    assert_eq!(reserved("05:00.0"), [0x1000, 0x3000]);
    assert_eq!(reserved("05:01.0"), [0x3000]);
    assert_eq!(reserved("00:02.0"), []);
    assert_eq!(reserved("0001:00:14.0"), []);
}

proptest! {
    #[test]
    fn r5_any_path_in_any_machine_ends(
        path in prop::collection::vec((0..32u8, 0..8u8), 0..125),
        start_bus: u8,
        numbers in prop::collection::vec((any::<u8>(), any::<u8>()), 16),
        device: u16,
    ) {
        let mut reads = 0;
        let mut buses_behind = |bridge: PciAddress| {
            reads += 1;
            let (first, last) = numbers[usize::from(bridge.source().get() % 16)];
            Some(first..=last)
        };
        let device = PciAddress::from_source(0, dma_types::SourceId::new(device));
        let table = table(vec![unit(false, vec![scope(BRIDGE, start_bus, &path)])]);
        let _ = table.covering(device, &mut buses_behind);
        prop_assert!(reads <= path.len());
    }
}
