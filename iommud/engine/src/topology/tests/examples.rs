use alloc::string::ToString;
use alloc::vec::Vec;

use dma_types::{PciAddress, SourceId};

use super::machine::{DOWNSTREAM, IN_ROOT_COMPLEX, Machine, ROOT_PORT, TO_PCI, UPSTREAM};
use crate::pci::scan;
use crate::topology::Topology;

/// The groups expected, each as its members and how they sign.
fn expect(machine: &mut Machine, groups: &[(&str, &str)]) {
    let found = machine.groups();
    let found: Vec<_> = found.iter().map(|(members, ids)| (&members[..], &ids[..])).collect();
    assert_eq!(found, groups);
}

/// The reasons of the group that a function is in.
fn reasons(topology: &Topology, function: &str) -> Vec<alloc::string::String> {
    let group = topology.group_of(function.parse().unwrap()).unwrap();
    topology.groups()[group].reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn devices_of_the_root_complex_are_apart() {
    let mut machine = Machine::default().conventional("00:02.0").endpoint("00:03.0");
    expect(&mut machine, &[("00:02.0", "00:02.0"), ("00:03.0", "00:03.0")]);
    assert_eq!(reasons(&machine.topology(), "00:02.0"), [""; 0]);
}

#[test]
fn functions_of_a_device_are_together_but_for_those_with_services() {
    let mut machine = Machine::default()
        .conventional("00:1f.0")
        .conventional("00:1f.3")
        .endpoint("00:1f.6")
        .with_services(&["00:1f.6"]);
    expect(&mut machine, &[("00:1f.0 00:1f.3", "00:1f.0 00:1f.3"), ("00:1f.6", "00:1f.6")]);
    assert_eq!(
        reasons(&machine.topology(), "00:1f.3"),
        ["0000:00:1f.0 and 0000:00:1f.3 are functions of one device without ACS"]
    );
}

#[test]
fn a_port_without_services_is_one_with_all_behind_it() {
    let machine = || {
        Machine::default()
            .port("00:01.0", ROOT_PORT, 1, 3)
            .port("01:00.0", UPSTREAM, 2, 3)
            .port("02:00.0", DOWNSTREAM, 3, 3)
            .with_services(&["02:00.0"])
            .endpoint("03:00.0")
            .port("00:1c.0", ROOT_PORT, 4, 4)
            .endpoint("04:00.0")
    };
    expect(
        &mut machine().with_services(&["00:1c.0"]),
        &[("00:01.0 01:00.0 02:00.0 03:00.0", "03:00.0"), ("00:1c.0", ""), ("04:00.0", "04:00.0")],
    );
    expect(
        &mut machine().with_services(&["00:01.0"]),
        &[
            ("00:01.0", ""),
            ("00:1c.0 04:00.0", "04:00.0"),
            ("01:00.0", ""),
            ("02:00.0", ""),
            ("03:00.0", "03:00.0"),
        ],
    );
    assert_eq!(
        reasons(&machine().topology(), "04:00.0"),
        ["0000:00:1c.0 is a root port without ACS: what is behind it can reach each other"]
    );
}

#[test]
fn a_switch_is_as_tight_as_its_loosest_downstream_port() {
    let machine = |loose: bool| {
        let tight: &[&str] = if loose { &["02:01.0"] } else { &["02:00.0", "02:01.0"] };
        Machine::default()
            .port("00:01.0", ROOT_PORT, 1, 4)
            .with_services(&["00:01.0"])
            .port("01:00.0", UPSTREAM, 2, 4)
            .port("02:00.0", DOWNSTREAM, 3, 3)
            .port("02:01.0", DOWNSTREAM, 4, 4)
            .with_services(tight)
            .endpoint("03:00.0")
            .endpoint("04:00.0")
    };
    let apart = [("03:00.0", "03:00.0"), ("04:00.0", "04:00.0")];
    let alone = [("00:01.0", ""), ("01:00.0", "")];
    let ports = [("02:00.0", ""), ("02:01.0", "")];
    expect(&mut machine(false), &[&alone[..], &ports, &apart].concat());
    let together = [("02:00.0 02:01.0 03:00.0 04:00.0", "03:00.0 04:00.0")];
    expect(&mut machine(true), &[&alone[..], &together].concat());
    assert!(reasons(&machine(true).topology(), "04:00.0").contains(
        &"0000:02:00.0 is a downstream port without ACS: what is behind its switch can reach each other"
            .to_string()
    ));
}

#[test]
fn behind_a_bridge_to_conventional_pci_all_sign_as_its_bus() {
    let mut machine = Machine::default()
        .port("00:1c.0", ROOT_PORT, 1, 3)
        .with_services(&["00:1c.0"])
        .port("01:00.0", TO_PCI, 2, 3)
        .conventional("02:04.0")
        .bridge("02:05.0", 3, 3)
        .conventional("03:00.0");
    expect(
        &mut machine,
        &[("00:1c.0", ""), ("01:00.0 02:04.0 02:05.0 03:00.0", "02:00.0 02:04.0 02:05.0 03:00.0")],
    );
    let topology = machine.topology();
    let signs = |function: &str| {
        let ids = topology.requesters_of(function.parse().unwrap());
        ids.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(signs("02:04.0"), ["02:00.0", "02:04.0"]);
    assert_eq!(signs("03:00.0"), ["02:00.0", "02:05.0", "03:00.0"]);
    assert_eq!(signs("01:00.0"), [""; 0]);
    assert_eq!(
        reasons(&topology, "02:04.0")[0],
        "0000:01:00.0 is a bridge to a bus of conventional PCI: what is behind it cannot be told apart"
    );
}

#[test]
fn a_conventional_bridge_signs_itself_and_as_its_bus_where_it_cannot_be_one() {
    // Intel's of the chipset; then ASMedia's ASM1083 behind a root port, which says nothing of PCI Express.
    let mut machine = Machine::default()
        .bridge("00:1e.0", 5, 5)
        .conventional("05:01.0")
        .port("00:1c.0", ROOT_PORT, 1, 2)
        .with_services(&["00:1c.0"])
        .bridge("01:00.0", 2, 2)
        .conventional("02:00.0");
    expect(
        &mut machine,
        &[
            ("00:1c.0", ""),
            ("00:1e.0 05:01.0", "00:1e.0 05:01.0"),
            ("01:00.0 02:00.0", "01:00.0 02:00.0"),
        ],
    );
}

#[test]
fn devices_that_sign_as_another_function_are_known() {
    let mut machine = Machine::default()
        .port("00:1c.0", ROOT_PORT, 1, 1)
        .port("00:1d.0", ROOT_PORT, 2, 2)
        .with_services(&["00:1c.0", "00:1d.0"])
        .made("01:00.0", 0x1b4b, 0x9230)
        .made("02:00.0", 0x1180, 0x0001)
        .made("02:00.1", 0x1180, 0xe832)
        .with_services(&["02:00.0", "02:00.1"]);
    expect(
        &mut machine,
        &[
            ("00:1c.0", ""),
            ("00:1d.0", ""),
            ("01:00.0", "01:00.0 01:00.1"),
            ("02:00.0 02:00.1", "02:00.0 02:00.1"),
        ],
    );
    let topology = machine.topology();
    assert_eq!(
        reasons(&topology, "01:00.0"),
        ["0000:01:00.0 is of a kind that signs its requests as 01:00.1"]
    );
    assert_eq!(
        reasons(&topology, "02:00.0"),
        [
            "0000:02:00.1 is of a kind that signs its requests as 02:00.0",
            "0000:02:00.0 and 0000:02:00.1 sign their requests as 02:00.0",
        ]
    );
}

#[test]
fn devices_that_are_known_to_keep_to_themselves_are_apart() {
    let mut machine = Machine::default()
        .conventional("00:1f.0")
        .made("00:1f.6", 0x8086, 0x15b8)
        .express("00:14.0", IN_ROOT_COMPLEX)
        .express("00:14.2", IN_ROOT_COMPLEX);
    expect(
        &mut machine,
        &[("00:14.0 00:14.2", "00:14.0 00:14.2"), ("00:1f.0", "00:1f.0"), ("00:1f.6", "00:1f.6")],
    );
    for function in ["00:14.0", "00:14.2"] {
        machine.config.set(function, 0, 0xa36d_8086);
    }
    assert_eq!(machine.groups().len(), 4);
}

#[test]
fn an_iommu_of_the_root_complex_is_nobodys_sibling() {
    let mut machine = Machine::default().conventional("00:00.0").conventional("00:00.2");
    assert_eq!(machine.groups().len(), 1);
    machine.config.set("00:00.2", 8, 0x0806_0000);
    assert_eq!(machine.groups().len(), 2);
}

#[test]
fn functions_numbered_beyond_seven_are_of_one_device() {
    let mut machine = Machine::default()
        .port("00:01.0", ROOT_PORT, 1, 1)
        .with_services(&["00:01.0"])
        .endpoint("01:00.0")
        .endpoint("01:01.0");
    expect(&mut machine, &[("00:01.0", ""), ("01:00.0 01:01.0", "01:00.0 01:01.0")]);
}

#[test]
fn what_firmware_says_of_signing_holds() {
    let mut machine =
        Machine::default().conventional("00:14.0").conventional("00:15.0").conventional("00:16.0");
    let functions = scan(&mut machine.config, 0, [0]);
    let alias = |device: PciAddress| match device.device() {
        // To a function that is not there, the same for two.
        0x14 | 0x15 => Some(SourceId::new(0x00a7)),
        _ => Some(device.source()),
    };
    let topology = Topology::new(&functions, &alias);
    assert_eq!(topology.groups().len(), 2);
    assert_eq!(topology.groups()[0].requesters, [0x00a0, 0x00a7, 0x00a8].map(SourceId::new));
    assert_eq!(
        reasons(&topology, "00:15.0"),
        [
            "firmware says that 0000:00:14.0 signs its requests as 00:14.7",
            "firmware says that 0000:00:15.0 signs its requests as 00:14.7",
            "0000:00:14.0 and 0000:00:15.0 sign their requests as 00:14.7",
        ]
    );
    assert_eq!(reasons(&topology, "00:16.0"), [""; 0]);
}

#[test]
fn r5_two_bridges_to_one_bus_are_one_with_it() {
    let mut machine = Machine::default()
        .port("00:01.0", ROOT_PORT, 1, 1)
        .port("00:02.0", ROOT_PORT, 1, 1)
        .with_services(&["00:01.0", "00:02.0"])
        .endpoint("01:00.0");
    expect(&mut machine, &[("00:01.0 00:02.0 01:00.0", "01:00.0")]);
}

#[test]
fn r5_buses_in_a_ring_end() {
    let mut machine = Machine::default()
        .bridge("00:01.0", 1, 255)
        .bridge("01:01.0", 2, 1)
        .bridge("02:01.0", 1, 2)
        .conventional("02:02.0")
        .bridge("00:02.0", 0, 0);
    let groups = machine.groups();
    assert_eq!(groups[0].0, "00:01.0 01:01.0 02:01.0 02:02.0");
    assert_eq!(groups[1], ("00:02.0".to_string(), "".to_string()));
}
