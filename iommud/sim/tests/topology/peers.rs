//! Requests that no unit sees, and ACS, which brings them before one.

use dma_types::PciAddress;
use iommu_sim::machine::EduConfig;
use iommu_sim::pci::acs;
use iommu_sim::{HeapMemory, Machine, MachineConfig};

fn at(address: &str) -> PciAddress {
    address.parse().unwrap()
}

/// The liveness register of an edu device with its BAR here.
const LIVENESS: u64 = 0xfe80_0004;

/// A machine in which an edu device is at `victim`, and memory is nowhere.
fn machine(config: MachineConfig, victim: &str) -> Machine<HeapMemory> {
    let mut machine = Machine::new(config, HeapMemory::default());
    machine.plug_edu(EduConfig::new(at(victim), 0xfe80_0000));
    let functions: Vec<_> = machine.functions().collect();
    for function in functions {
        machine.config_write(function, 4, 6);
    }
    machine
}

/// Whether a function can write the victim's liveness register and read it back inverted.
fn reaches(machine: &mut Machine<HeapMemory>, attacker: &str) -> bool {
    let wrote = machine.dma_write(at(attacker), LIVENESS, &[1, 2, 3, 4]);
    let mut word = [0; 4];
    let read = machine.dma_read(at(attacker), LIVENESS, &mut word);
    assert_eq!(wrote, read);
    let there = machine.mmio_read(LIVENESS, 4);
    assert_eq!(there == !0x0403_0201 & 0xffff_ffff, wrote.is_ok());
    wrote.is_ok()
}

#[test]
fn behind_a_switch_without_acs_devices_reach_each_other() {
    let mut machine = machine(MachineConfig::default().with_switch(None), "14:00.0");
    assert!(reaches(&mut machine, "12:00.0"));
}

#[test]
fn acs_keeps_them_apart_once_it_is_turned_on() {
    let config = MachineConfig::default().with_switch(Some(acs::ISOLATING));
    let mut machine = machine(config, "14:00.0");
    machine.config_write(at("11:00.0"), 0x104, u32::from(acs::ISOLATING) << 16);
    assert!(!reaches(&mut machine, "12:00.0"));
    assert!(reaches(&mut machine, "13:00.0"), "its port has it and was not told");
}

#[test]
fn a_port_whose_acs_lacks_a_service_has_no_need_of_it() {
    let config = MachineConfig::default().with_switch(Some(acs::SOURCE_VALIDATION));
    assert!(!reaches(&mut machine(config, "14:00.0"), "12:00.0"));
}

#[test]
fn functions_of_a_device_reach_each_other_unless_they_have_acs() {
    for bits in [None, Some(acs::ISOLATING)] {
        let mut machine = machine(MachineConfig::default().with_two_functions(bits), "00:06.2");
        machine.config_write(at("00:06.0"), 0x104, u32::from(acs::ISOLATING) << 16);
        assert_eq!(reaches(&mut machine, "00:06.0"), bits.is_none());
    }
}

#[test]
fn on_a_conventional_bus_all_reach_all_and_between_root_ports_none_does() {
    let config = MachineConfig::default().with_pci_bridge().with_root_port();
    let mut machine = machine(config, "21:04.0");
    for (attacker, reached) in
        [("21:01.0", true), ("22:00.0", true), ("01:00.0", false), ("00:02.0", false)]
    {
        assert_eq!(reaches(&mut machine, attacker), reached, "{attacker}");
        machine.mmio_write(LIVENESS, 4, 0);
    }
}
