use alloc::vec;

use super::vtd::{bridge, drhd, endpoint, plan, table};
use super::{findings, group, unit};
use crate::machine::plan::Given;
use crate::topology::tests::machine::{Machine, ROOT_PORT, TO_PCI};

#[test]
fn what_appears_behind_a_scoped_bridge_is_behind_its_unit() {
    let machine = || {
        Machine::default()
            .conventional("00:02.0")
            .port("00:1c.0", ROOT_PORT, 1, 8)
            .with_services(&["00:1c.0"])
    };
    let units = vec![drhd(0x30, false, vec![bridge(0x1c)]), drhd(0x48, true, vec![])];
    let mut plan = plan(table(units, vec![]), &mut machine(), &Given::default());
    let groups = plan.groups().to_vec();
    // A bridge, with a bus that was not there, and two devices.
    let mut later =
        machine().port("01:00.0", TO_PCI, 5, 5).conventional("05:01.0").conventional("05:02.0");
    let placed = plan.grow(&later.functions());
    assert_eq!(placed.len(), 3);
    assert_eq!(unit(&plan, "05:02.0"), Some(0));
    assert_eq!(
        group(&plan, "05:02.0"),
        ("01:00.0 05:01.0 05:02.0".into(), "05:00.0 05:01.0 05:02.0".into(), Some(0))
    );
    // What was there is where it was.
    assert_eq!(plan.groups()[..groups.len()], groups);
    assert_eq!(plan.grow(&later.functions()), []);
    // One more joins the group that is there.
    assert_eq!(plan.grow(&later.conventional("05:03.0").functions()).len(), 1);
    assert_eq!(group(&plan, "05:02.0").1, "05:00.0 05:01.0 05:02.0 05:03.0");
    // It is gone, and stays in the plan.
    let before = plan.clone();
    assert_eq!(plan.grow(&machine().functions()), []);
    assert_eq!(plan, before);
    assert_eq!(findings(&plan), [""; 0]);
}

#[test]
fn a_known_bridge_that_has_got_a_bus_leads_newcomers_to_its_unit() {
    let machine =
        |bus| Machine::default().conventional("00:02.0").port("00:1c.0", ROOT_PORT, bus, bus);
    let units = vec![drhd(0x30, false, vec![bridge(0x1c)]), drhd(0x48, true, vec![])];
    let mut plan = plan(table(units, vec![]), &mut machine(0), &Given::default());
    assert_eq!(plan.grow(&machine(7).endpoint("07:00.0").functions()).len(), 1);
    assert_eq!(unit(&plan, "07:00.0"), Some(0));
    assert_eq!(group(&plan, "07:00.0"), ("00:1c.0 07:00.0".into(), "07:00.0".into(), Some(0)));
}

#[test]
fn an_empty_port_without_services_gets_the_unit_of_its_first_device() {
    let machine = || Machine::default().port("00:1c.0", ROOT_PORT, 1, 1);
    let units = vec![drhd(0x30, false, vec![endpoint(2)]), drhd(0x48, true, vec![])];
    let mut plan = plan(table(units, vec![]), &mut machine(), &Given::default());
    assert_eq!(group(&plan, "00:1c.0"), ("00:1c.0".into(), "".into(), None));
    assert_eq!(plan.grow(&machine().endpoint("01:00.0").functions()).len(), 1);
    assert_eq!(group(&plan, "00:1c.0"), ("00:1c.0 01:00.0".into(), "01:00.0".into(), Some(1)));
}

#[test]
fn r1_a_newcomer_that_would_join_groups_is_not_placed() {
    // The device signs as its function 1, of which nobody knew.
    let machine = |device| {
        Machine::default()
            .conventional("00:03.0")
            .made("00:04.0", 0x1b4b, device)
            .with_services(&["00:04.0"])
            .endpoint("00:04.1")
            .with_services(&["00:04.1"])
    };
    let mut plan =
        plan(table(vec![drhd(0x30, true, vec![])], vec![]), &mut machine(1), &Given::default());
    let before = plan.groups().to_vec();
    assert_eq!(plan.grow(&machine(0x9230).functions()), []);
    assert_eq!(plan.groups(), before);
    assert_eq!(
        findings(&plan),
        [
            "DMAR: 0000:00:04.0 has appeared and cannot be attached: it could not be told apart from two groups, those of 0000:00:04.0 and 0000:00:04.1, which are apart"
        ]
    );
    // It is told once.
    plan.grow(&machine(0x9230).functions());
    assert_eq!(plan.findings().len(), 1);
}

#[test]
fn r1_a_newcomer_of_another_unit_is_not_placed() {
    let machine = || Machine::default().conventional("00:02.0");
    let mut plan = plan(
        table(vec![drhd(0x30, false, vec![endpoint(2)])], vec![]),
        &mut machine(),
        &Given::default(),
    );
    assert_eq!(plan.grow(&machine().conventional("00:02.1").functions()), []);
    assert_eq!(group(&plan, "00:02.0"), ("00:02.0".into(), "00:02.0".into(), Some(0)));
    assert_eq!(
        findings(&plan),
        [
            "DMAR: 0000:00:02.1 has appeared and cannot be attached: it could not be told apart from 0000:00:02.0, which another IOMMU covers or none"
        ]
    );
}
