//! The `edu` device in the machine.

use crate::rig::*;
use iommu_sim::vtd::VtdConfig;
use iommu_sim::{MachineConfig, Memory};

/// Starts a transfer.
fn start(rig: &mut Rig, source: u64, destination: u64, count: u64, command: u64) {
    for (at, value) in [(0x80, source), (0x88, destination), (0x90, count), (0x98, command)] {
        rig.machine.mmio_write(EDU_BAR + at, 8, value);
    }
}

fn command(rig: &mut Rig) -> u64 {
    rig.machine.mmio_read(EDU_BAR + 0x98, 8)
}

#[test]
fn it_moves_data_both_ways_through_the_unit() {
    let mut rig = Rig::translating(VtdConfig::default());
    assert_eq!(rig.machine.mmio_read(EDU_BAR, 4), 0x0100_00ed);
    rig.put(PAGE, 0x1122_3344_5566_7788);
    start(&mut rig, 0x5000, 0x40000, 8, 1);
    assert_eq!(command(&mut rig), 1, "not before time passes");
    rig.machine.advance(1);
    assert_eq!(command(&mut rig), 0);
    start(&mut rig, 0x40000, 0x5100, 8, 3);
    rig.machine.advance(2);
    assert_eq!(rig.get(PAGE + 0x100), 0x1122_3344_5566_7788);
    assert_eq!(rig.machine.edu(rig.edu).unwrap().buffer()[..2], [0x88, 0x77]);
}

#[test]
fn a_blocked_read_returns_zeroes_and_a_blocked_write_changes_nothing() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.put(PAGE, u64::MAX);
    start(&mut rig, 0x5000, 0x40000, 8, 1);
    rig.machine.advance(1);
    start(&mut rig, PAGE, 0x40000, 8, 1);
    rig.machine.advance(2);
    assert_eq!(rig.machine.edu(rig.edu).unwrap().buffer()[..8], [0; 8]);
    assert_eq!(rig.take_record(), (PAGE, 0xc000_0006_0000_0010));
    start(&mut rig, 0x40000, PAGE, 8, 3);
    rig.machine.advance(3);
    assert_eq!(rig.get(PAGE), u64::MAX);
    assert_eq!(rig.take_record(), (PAGE, 0x8000_0005_0000_0010));
}

#[test]
fn without_bus_mastering_nothing_moves() {
    let mut rig = Rig::new(VtdConfig::default());
    let edu = rig.edu;
    rig.machine.config_write(edu, 4, 2);
    rig.put(PAGE, u64::MAX);
    start(&mut rig, PAGE, 0x40000, 8, 1);
    rig.machine.advance(1);
    assert_eq!(command(&mut rig), 0);
    assert_eq!(rig.machine.edu(edu).unwrap().buffer()[..8], [0; 8]);
}

#[test]
fn a_slow_transfer_uses_the_translation_of_its_end() {
    let mut config = MachineConfig::default();
    config.edus[0].dma_nanos = 100;
    let mut rig = Rig::with(config);
    rig.build();
    rig.turn_on();
    rig.put(PAGE, u64::MAX);
    rig.machine.advance(50);
    start(&mut rig, 0x5000, 0x40000, 8, 1);
    rig.machine.advance(149);
    assert_eq!(command(&mut rig), 1);
    rig.put(table(1) + 5 * 8, 0);
    rig.machine.advance(150);
    assert_eq!(command(&mut rig), 0);
    assert_eq!(rig.machine.edu(rig.edu).unwrap().buffer()[..8], [0; 8]);
}

#[test]
fn its_interrupt_is_a_message_or_a_line() {
    let mut rig = Rig::translating(VtdConfig::default());
    let edu = rig.edu;
    rig.machine.mmio_write(EDU_BAR + 0x60, 4, 2);
    assert!(rig.machine.edu(edu).unwrap().interrupt_line());
    assert_eq!(rig.machine.take_interrupts(), []);
    rig.machine.mmio_write(EDU_BAR + 0x64, 4, 2);
    rig.machine.config_write(edu, 0x44, 0xfee0_0000);
    rig.machine.config_write(edu, 0x4c, 0x41);
    rig.machine.config_write(edu, 0x40, 1 << 16);
    start(&mut rig, 0x5000, 0x40000, 8, 5);
    rig.machine.advance(1);
    assert_eq!(rig.machine.mmio_read(EDU_BAR + 0x24, 4), 0x100);
    let interrupts = rig.machine.take_interrupts();
    assert_eq!(interrupts.len(), 1);
    assert_eq!((interrupts[0].address, interrupts[0].data), (0xfee0_0000, 0x41));
}

#[test]
fn nothing_is_where_nothing_was_put() {
    let mut rig = Rig::new(VtdConfig::default());
    let edu = rig.edu;
    assert_eq!(rig.machine.mmio_read(0x1000, 4), 0xffff_ffff);
    assert_eq!(rig.machine.mmio_read(UNIT + 1, 4), 0xffff_ffff);
    assert_eq!(rig.machine.mmio_read(UNIT + 0x1000, 8), u64::MAX);
    assert_eq!(rig.machine.mmio_read(EDU_BAR + (1 << 20), 4), 0xffff_ffff);
    let nobody = "0000:00:1f.0".parse().unwrap();
    assert_eq!(rig.machine.config_read(nobody, 0), u32::MAX);
    assert_eq!(rig.machine.config_read(edu, 0), 0x11e8_1234);
    rig.machine.config_write(edu, 0x10, 0xfeb0_0000);
    assert_eq!(rig.machine.mmio_read(EDU_BAR, 4), 0xffff_ffff);
    assert_eq!(rig.machine.mmio_read(0xfeb0_0000, 4), 0x0100_00ed);
    assert!(!rig.machine.memory().write64(0x10_0000, 0));
}
