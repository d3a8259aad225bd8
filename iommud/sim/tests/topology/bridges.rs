//! How requests are signed, and what configuration space tells of it.

use dma_types::{PciAddress, SourceId};
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::machine::{EduConfig, FunctionConfig};
use iommu_sim::pci::{ExpressKind, acs};
use iommu_sim::{Blocked, HeapMemory, Machine, MachineConfig, Memory};

fn at(address: &str) -> PciAddress {
    address.parse().unwrap()
}

fn machine(config: MachineConfig) -> Machine<HeapMemory> {
    let mut machine = Machine::new(config, HeapMemory::new(&[(0, 1 << 20)]));
    let functions: Vec<_> = machine.functions().collect();
    for function in functions {
        machine.config_write(function, 4, 6);
    }
    machine
}

/// The bus numbers of a bridge: secondary and subordinate.
fn buses(machine: &Machine<HeapMemory>, bridge: &str) -> (u32, u32) {
    let dword = machine.config_read(at(bridge), 0x18);
    (dword >> 8 & 0xff, dword >> 16 & 0xff)
}

/// The Device/Port Type of a function's PCI Express capability, found by the list.
fn port_type(machine: &Machine<HeapMemory>, function: &str) -> Option<u32> {
    let read = |offset| machine.config_read(at(function), offset);
    let mut next = read(0x34) & 0xff;
    while next != 0 {
        let header = read(next as u16);
        if header & 0xff == 0x10 {
            return Some(header >> 20 & 0xf);
        }
        next = header >> 8 & 0xff;
    }
    None
}

fn signed(machine: &Machine<HeapMemory>, function: &str) -> u16 {
    machine.requester(at(function)).get()
}

#[test]
fn a_switch_passes_requests_up_as_they_are() {
    let machine = machine(MachineConfig::default().with_switch(Some(acs::ISOLATING)));
    assert_eq!((signed(&machine, "12:00.0"), signed(&machine, "13:00.0")), (0x1200, 0x1300));
    let types = ["00:04.0", "10:00.0", "11:00.0", "11:01.0", "12:00.0"];
    assert_eq!(
        types.map(|function| port_type(&machine, function)),
        [Some(4), Some(5), Some(6), Some(6), Some(0)]
    );
    assert_eq!(buses(&machine, "10:00.0"), (0x11, 0x1f));
    // ACS: in the ports that have it, and not in the upstream port.
    let acs = |function| {
        (machine.config_read(at(function), 0x100), machine.config_read(at(function), 0x104))
    };
    assert_eq!(acs("11:00.0"), (0x0001_000d, 0x1f));
    assert_eq!(acs("10:00.0"), (0, 0));
    assert_eq!(acs("00:02.0"), (u32::MAX, u32::MAX), "no PCI Express function");
}

#[test]
fn a_bridge_to_pci_signs_with_its_secondary_bus() {
    let machine = machine(MachineConfig::default().with_pci_bridge());
    for card in ["21:01.0", "21:02.0", "22:00.0"] {
        assert_eq!(signed(&machine, card), 0x2100, "{card}");
    }
    assert_eq!((signed(&machine, "21:03.0"), signed(&machine, "20:00.0")), (0x2100, 0x2000));
    assert_eq!(port_type(&machine, "20:00.0"), Some(7));
    assert_eq!(port_type(&machine, "21:03.0"), None);
    let legacy = super::bridges::machine(MachineConfig::default().with_legacy_bridge());
    assert_eq!(signed(&legacy, "30:01.0"), 0x00f0);
}

#[test]
fn a_quirky_function_signs_as_another() {
    let machine = machine(MachineConfig::default().with_quirky_function());
    assert_eq!(signed(&machine, "00:07.0"), 0x0039);
    assert_eq!(machine.config_read(at("00:07.1"), 0), u32::MAX);
}

#[test]
fn functions_of_a_device_say_that_there_are_more() {
    let machine =
        machine(MachineConfig::with_amdvi(AmdviConfig::default()).with_two_functions(None));
    let header = |function| machine.config_read(at(function), 0x0c) >> 16 & 0xff;
    assert_eq!((header("00:06.0"), header("00:06.1"), header("00:02.0")), (0x80, 0x80, 0));
    // The IOMMU's function is the host bridge's sibling.
    assert_eq!((header("00:00.0"), header("00:00.2")), (0x80, 0x80));
}

#[test]
fn the_units_event_names_who_signed() {
    let config = MachineConfig::with_amdvi(AmdviConfig::default()).with_pci_bridge();
    let mut machine = machine(config);
    let unit = 0xfed8_0000;
    // Device table of nobody, event log.
    for (at, value) in [(0, 0x1ff), (0x10, 0x8000 | 8 << 56), (0x18, 5)] {
        machine.mmio_write(unit + at, 8, value);
    }
    machine.memory().write64(0, 0);
    machine.memory().write64(0x2100 * 32, 3);
    let refused = machine.dma_write(at("22:00.0"), 0x9000, &[1; 8]);
    assert!(refused.is_err_and(Blocked::is_by_tables));
    assert_eq!(machine.memory().read64(0x8000).map(|event| event & 0xffff), Some(0x2100));
}

#[test]
fn what_is_hot_added_is_behind_the_bridge_with_room_for_it() {
    let mut config = MachineConfig::default().with_switch(None);
    let mut second = config.units[0].clone();
    second.base = 0xfed9_2000;
    second.scope = iommu_sim::machine::UnitScope::Devices(vec![at("00:04.0")]);
    config.units.push(second);
    let mut machine = machine(config);
    let added = at("17:00.0");
    assert_eq!(machine.config_read(added, 0), u32::MAX);
    let mut edu = EduConfig::new(added, 0xfe80_0000);
    edu.express = Some(ExpressKind::Endpoint);
    edu.acs = Some(acs::ISOLATING);
    machine.plug_edu(edu);
    assert_eq!(machine.config_read(added, 0), 0x11e8_1234);
    assert_eq!((machine.unit_of(added), machine.unit_of(at("00:02.0"))), (Some(1), Some(0)));
    assert_eq!(machine.mmio_read(0xfe80_0000, 4), 0x0100_00ed);
    assert_eq!(machine.dma_write(added, 0x1000, &[1; 8]), Err(Blocked::NotMaster));
    machine.config_write(added, 4, 6);
    assert_eq!(machine.dma_write(added, 0x1000, &[1; 8]), Ok(()));
    machine.unplug(added);
    assert_eq!(machine.dma_write(added, 0x1000, &[1; 8]), Err(Blocked::NoFunction));
    machine.plug(FunctionConfig::endpoint(at("14:00.0")));
    assert_eq!(machine.requester(at("14:00.0")), SourceId::new(0x1400));
}
