use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use dma_types::PhysAddr;

use super::{findings, group, reserved, unit};
use crate::acpi::UnitFault;
use crate::acpi::dmar::{
    DeviceScope, Dmar, DmarFlags, Drhd, PathStep, Refusal, Refused, Rmrr, ScopeKind,
};
use crate::error::StartError;
use crate::machine::plan::{Firmware, Given, GroupFault, Plan};
use crate::platform::Segment;
use crate::policy::IgnoredUnit;
use crate::topology::tests::machine::{Machine, ROOT_PORT, TO_PCI};

pub(super) fn scope(kind: ScopeKind, path: &[(u8, u8)]) -> DeviceScope {
    let path = path.iter().map(|&(device, function)| PathStep::new(device, function).unwrap());
    DeviceScope { kind, enumeration_id: 0, start_bus: 0, path: path.collect() }
}

pub(super) fn endpoint(device: u8) -> DeviceScope {
    scope(ScopeKind::Endpoint, &[(device, 0)])
}

pub(super) fn bridge(device: u8) -> DeviceScope {
    scope(ScopeKind::SubHierarchy, &[(device, 0)])
}

/// A unit at this offset, with registers that follow from it.
pub(super) fn drhd(offset: usize, include_pci_all: bool, scopes: Vec<DeviceScope>) -> Drhd {
    let registers = PhysAddr::new(0xfed0_0000 + ((offset as u64) << 12));
    Drhd { offset, segment: 0, include_pci_all, registers, register_bytes: 4096, scopes }
}

fn rmrr(offset: usize, base: u64, limit: u64, scopes: Vec<DeviceScope>) -> Rmrr {
    let (base, limit) = (PhysAddr::new(base), PhysAddr::new(limit));
    Rmrr { offset, segment: 0, base, limit, scopes }
}

pub(super) fn table(units: Vec<Drhd>, reserved: Vec<Rmrr>) -> Dmar {
    Dmar {
        checksum_valid: true,
        host_address_width: 39,
        flags: DmarFlags::new(),
        units,
        reserved,
        refused: vec![],
        skipped: vec![],
    }
}

pub(super) fn plan(table: Dmar, machine: &mut Machine, given: &Given<'_>) -> Plan {
    Plan::new(Firmware::Vtd(table), &machine.functions(), given).unwrap()
}

#[test]
fn units_stand_in_the_order_of_the_table_and_cover_their_devices_though_left_out() {
    let mut table =
        table(vec![drhd(0x30, false, vec![endpoint(2)]), drhd(0x60, true, vec![])], vec![]);
    let broken = drhd(0x48, false, vec![bridge(0x1c)]);
    let refusal = Refusal::Unit(broken, UnitFault::NoBase);
    table.refused.push(Refused { offset: 0x48, refusal });
    let ignored = IgnoredUnit { base: PhysAddr::new(0xfed3_0000), reason: "it hangs".to_string() };
    let mut machine = Machine::default()
        .conventional("00:02.0")
        .conventional("00:03.0")
        .port("00:1c.0", ROOT_PORT, 1, 1)
        .endpoint("01:00.0");
    let given = Given { ignored: &[ignored], ..Given::default() };
    let plan = plan(table, &mut machine, &given);
    let reasons: Vec<_> =
        plan.units().iter().map(|unit| unit.left_out.as_ref().map(ToString::to_string)).collect();
    assert_eq!(
        reasons,
        [
            Some("the policy leaves it alone: it hangs".to_string()),
            Some("its registers are said to be at address zero".to_string()),
            None
        ]
    );
    assert_eq!(unit(&plan, "00:02.0"), Some(0));
    assert_eq!(unit(&plan, "01:00.0"), Some(1));
    assert_eq!(unit(&plan, "00:03.0"), Some(2));
    assert_eq!(group(&plan, "01:00.0"), ("00:1c.0 01:00.0".into(), "01:00.0".into(), Some(1)));
    assert_eq!(plan.units()[1].scopes, ["bridge 00:1c.0"]);
    assert!(plan.units()[2].has_the_rest);
    assert_eq!(
        findings(&plan),
        [
            "DMAR offset 0x48: a remapping unit (DRHD) is not used: its registers are said to be at address zero"
        ]
    );
}

#[test]
fn reserved_memory_is_where_nothing_else_is() {
    let regions = vec![
        rmrr(0x80, 0x10_0000, 0x10_0fff, vec![endpoint(2)]),
        // The last page before the arena, and the first of it.
        rmrr(0x90, 0x1fff_f000, 0x1fff_ffff, vec![endpoint(2)]),
        rmrr(0xa0, 0x1fff_f000, 0x2000_0fff, vec![endpoint(2)]),
        rmrr(0xb0, 0xfed3_0000, 0xfed3_0fff, vec![endpoint(2)]),
        rmrr(0xc0, 0xfed0_0000, 0xfee0_0fff, vec![endpoint(2)]),
        rmrr(0xd0, 0xfeef_f000, 0xfeff_ffff, vec![endpoint(2)]),
        rmrr(0xe0, 0x10_0000, 0x10_0fff, vec![endpoint(2)]),
        rmrr(0xf0, 0x10_0000, 0x10_1fff, vec![endpoint(2)]),
    ];
    let mut machine = Machine::default().conventional("00:02.0");
    let arenas = [Segment { start: PhysAddr::new(0x2000_0000), bytes: 0x40_0000 }];
    let given = Given { arenas: &arenas, ..Given::default() };
    let plan = plan(table(vec![drhd(0x30, true, vec![])], regions), &mut machine, &given);
    assert_eq!(reserved(&plan, "00:02.0"), ["0x100000..=0x101fff", "0x1ffff000..=0x1fffffff"]);
    assert_eq!(
        findings(&plan),
        [
            "DMAR offset 0xa0: the memory 0x1ffff000..=0x20000fff is not reserved: iommud's own memory at 0x20000000 is there",
            "DMAR offset 0xb0: the memory 0xfed30000..=0xfed30fff is not reserved: the registers of the IOMMU at 0xfed30000 are there",
            "DMAR offset 0xc0: the memory 0xfed00000..=0xfee00fff is not reserved: the registers of the IOMMU at 0xfed30000 are there",
            "DMAR offset 0xd0: the memory 0xfeeff000..=0xfeffffff is not reserved: addresses there raise interrupts and reach no memory",
            "DMAR offset 0xe0: the memory 0x100000..=0x100fff is reserved at offset 0x80 already",
        ]
    );
}

#[test]
fn a_second_unit_for_all_the_rest_is_told_and_has_nothing() {
    let units = vec![
        drhd(0x30, true, vec![]),
        drhd(0x40, false, vec![endpoint(2)]),
        drhd(0x50, true, vec![]),
    ];
    let mut machine = Machine::default().conventional("00:02.0").conventional("00:03.0");
    let plan = plan(table(units, vec![]), &mut machine, &Given::default());
    assert_eq!((unit(&plan, "00:02.0"), unit(&plan, "00:03.0")), (Some(1), Some(0)));
    assert_eq!(
        findings(&plan),
        [
            "DMAR offset 0x50: this unit covers what no other names in segment 0000, as the one at offset 0x30 does already, which has it",
            "DMAR offset 0x30: this unit covers what no other names in its segment and is not the last; it counts as the last",
        ]
    );
}

#[test]
fn scopes_that_lead_nowhere_are_told_and_empty_slots_are_not() {
    let lost = scope(ScopeKind::Endpoint, &[(0x1d, 0), (0, 0)]);
    let units = vec![drhd(0x30, false, vec![endpoint(9), lost]), drhd(0x50, true, vec![])];
    let mut machine = Machine::default().conventional("00:02.0");
    let told = plan(table(units.clone(), vec![]), &mut machine, &Given::default());
    assert_eq!(
        findings(&told),
        [
            "DMAR offset 0x30: the device scope \"endpoint 00:1d.0/00.0\" leads nowhere: its path goes through 0000:00:1d.0, which is no working bridge"
        ]
    );
    // Of a table alone, nobody can tell.
    let alone = plan(table(units, vec![]), &mut Machine::default(), &Given::default());
    assert_eq!(findings(&alone), [""; 0]);
}

#[test]
fn r1_a_group_behind_two_units_or_partly_behind_none_is_not_attached() {
    let mut machine = Machine::default()
        .conventional("00:1f.0")
        .conventional("00:1f.3")
        .conventional("00:02.0")
        .conventional("00:02.1");
    let only = scope(ScopeKind::Endpoint, &[(0x1f, 3)]);
    let units = vec![
        drhd(0x30, false, vec![only, endpoint(2)]),
        drhd(0x50, false, vec![scope(ScopeKind::Endpoint, &[(0x1f, 0)])]),
    ];
    let plan = plan(table(units, vec![]), &mut machine, &Given::default());
    let fault = |function: &str| {
        let device = &plan.devices()[&function.parse().unwrap()];
        plan.groups()[device.group].unit
    };
    let at = |text: &str| text.parse().unwrap();
    assert_eq!(fault("00:1f.3"), Err(GroupFault::SeveralUnits(at("00:1f.0"), at("00:1f.3"))));
    assert_eq!(
        fault("00:02.1"),
        Err(GroupFault::PartlyCovered { covered: at("00:02.0"), uncovered: at("00:02.1") })
    );
    assert_eq!(
        findings(&plan),
        [
            "DMAR: the group of 0000:00:02.0 cannot be attached: 0000:00:02.0 and 0000:00:02.1 cannot be told apart, and no IOMMU covers 0000:00:02.1",
            "DMAR: the group of 0000:00:1f.0 cannot be attached: 0000:00:1f.0 and 0000:00:1f.3 cannot be told apart, and are behind different IOMMUs",
        ]
    );
}

#[test]
fn a_group_has_what_is_reserved_for_any_of_it() {
    let mut machine = Machine::default()
        .port("00:1c.0", ROOT_PORT, 1, 2)
        .port("01:00.0", TO_PCI, 2, 2)
        .conventional("02:00.0")
        .conventional("02:01.0");
    let first = scope(ScopeKind::Endpoint, &[(0x1c, 0), (0, 0), (0, 0)]);
    let second = scope(ScopeKind::Endpoint, &[(0x1c, 0), (0, 0), (1, 0)]);
    let regions =
        vec![rmrr(0x80, 0x1000, 0x1fff, vec![first]), rmrr(0xa0, 0x3000, 0x3fff, vec![second])];
    let units = vec![drhd(0x30, false, vec![bridge(0x1c)])];
    let plan = plan(table(units, regions), &mut machine, &Given::default());
    assert_eq!(reserved(&plan, "02:00.0"), ["0x1000..=0x1fff"]);
    let group = &plan.groups()[plan.devices()[&"02:01.0".parse().unwrap()].group];
    let ranges: Vec<_> = group.reserved.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["0x1000..=0x1fff", "0x3000..=0x3fff"]);
    assert_eq!(plan.units()[0].scopes, ["bridge 00:1c.0"]);
}

#[test]
fn a_refused_unit_at_address_zero_keeps_nothing_from_page_zero() {
    let mut table =
        table(vec![drhd(0x30, true, vec![])], vec![rmrr(0x80, 0, 0xfff, vec![endpoint(2)])]);
    let mut broken = drhd(0x40, false, vec![]);
    broken.registers = PhysAddr::new(0);
    let refusal = Refusal::Unit(broken, UnitFault::NoBase);
    table.refused.push(Refused { offset: 0x40, refusal });
    let mut machine = Machine::default().conventional("00:02.0");
    let plan = plan(table, &mut machine, &Given::default());
    assert_eq!(reserved(&plan, "00:02.0"), ["0x0..=0xfff"]);
}

#[test]
fn r5_more_units_than_any_machine_has_refuse_the_table() {
    let units = (0..1025).map(|index| drhd(0x30 + index * 16, false, vec![])).collect();
    let planned =
        Plan::new(Firmware::Vtd(table(units, vec![])), &BTreeMap::new(), &Given::default());
    assert_eq!(planned, Err(StartError::TooManyUnits(1025)));
}

#[test]
fn every_bus_that_the_table_names_is_scanned() {
    let mut far = scope(ScopeKind::Endpoint, &[(1, 0)]);
    far.start_bus = 0x80;
    let mut machine = Machine::default().conventional("80:01.0").conventional("00:02.0");
    let functions =
        Firmware::Vtd(table(vec![drhd(0x30, false, vec![far])], vec![])).scan(&mut machine.config);
    assert_eq!(functions.len(), 2);
}
