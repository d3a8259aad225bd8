//! Registers: what they keep, what firmware leaves in them, and whether they are there.

use crate::rig::*;
use iommu_sim::amdvi::{AmdviConfig, Violation};
use iommu_sim::pace::Health;
use iommu_sim::{Blocked, MachineConfig};

#[test]
fn registers_are_read_and_written_whole_or_by_halves() {
    let mut rig = Rig::new(AmdviConfig::default());
    rig.write32(0, 0x0020_01ff);
    rig.write32(4, 1);
    assert_eq!((rig.read64(0), rig.read32(0), rig.read32(4)), (0x1_0020_01ff, 0x0020_01ff, 1));
    rig.write64(0x30, 0);
    assert_eq!((rig.read64(0x30), rig.read32(0x30)), (0x840, 0x840));
    rig.write64(0x2000, u64::MAX);
    assert_eq!(rig.read64(0x2000), 0x7_fff0);
    assert_eq!((rig.read64(0x38), rig.read64(0x1a0), rig.read64(0x3ff8)), (0, 0, 0));
}

#[test]
fn writing_a_base_starts_head_and_tail_anew() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.submit(&[wait(1)]);
    assert_eq!(rig.dma_read(0x9000), Err(FAULT));
    rig.write64(0x18, 1);
    rig.write64(8, COMMAND_BASE);
    rig.write64(0x10, EVENT_BASE);
    for at in [0x2000, 0x2008, 0x2010, 0x2018] {
        assert_eq!(rig.read64(at), 0, "{at:#x}");
    }
}

#[test]
fn while_the_unit_is_off_nothing_runs() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.write64(0x18, ON & !1);
    assert_eq!(rig.read64(0x2020), 0);
    rig.submit(&[wait(1)]);
    assert_eq!((rig.get(STATUS), rig.dma_read(PAGE)), (0, Ok(0)));
    rig.write64(0x18, ON);
    assert_eq!((rig.get(STATUS), rig.read64(0x2020)), (1, 0x18));
}

#[test]
fn status_bits_that_only_hardware_sets_stay() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.write64(0x2020, u64::MAX);
    assert_eq!(rig.read64(0x2020), 0x18);
    rig.submit(&[(1 << 60 | 2, 0)]);
    rig.write32(0x2024, u32::MAX);
    assert_eq!(rig.read64(0x2020), 0x1c, "the other half was written");
}

#[test]
fn firmware_may_leave_everything_on() {
    let mut rig = Rig::new(AmdviConfig::default());
    rig.build();
    rig.unit().firmware_left_translation_on(DEVICE_TABLE);
    rig.unit().firmware_left_rings_on(COMMAND_BASE, EVENT_BASE);
    assert_eq!((rig.read64(0x18), rig.read64(0x2020)), (ON, 0x18));
    assert_eq!((rig.read64(0x2000), rig.read64(0x2008)), (0x40, 0x40));
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.submit(&[wait(1)]);
    assert_eq!(rig.get(STATUS), 1);
    assert_eq!(rig.read_event(0x9000), (0x2000_0007 << 32 | 0x10, 0x9000));
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn a_dead_unit_reads_as_ones_or_zeroes_and_translates_nothing() {
    for (health, word) in [(Health::AllOnes, u64::MAX), (Health::AllZeroes, 0)] {
        let mut rig = Rig::translating(AmdviConfig::default());
        rig.unit().set_health(health);
        for at in [0, 0x18, 0x30, 0x2000, 0x2020, 0x3ff8] {
            assert_eq!((rig.read64(at), rig.read32(at)), (word, word as u32));
        }
        rig.write64(0x18, 0);
        assert_eq!(rig.dma_read(PAGE), Ok(0));
    }
}

#[test]
fn without_its_enable_bit_the_unit_is_nowhere_until_software_puts_it_somewhere() {
    let mut config = MachineConfig::with_amdvi(AmdviConfig::default());
    config.amdvi_units[0].enabled = false;
    let mut rig = Rig::with(config);
    assert_eq!(rig.read64(0x30), u64::MAX);
    let function = "0000:00:00.2".parse().unwrap();
    assert_eq!(rig.machine.config_read(function, 0), 0x1451_1022);
    assert_eq!(rig.machine.config_read(function, 8) >> 8, 0x08_0600);
    assert_eq!(rig.machine.config_read(function, 0x44), 0xfed8_0000);
    rig.machine.config_write(function, 0x44, 0xfed8_0001);
    assert_eq!(rig.read64(0x30), 0x840);
    assert!(rig.machine.is_mmio(UNIT, 0x4000) && !rig.machine.is_mmio(UNIT, 0x4001));
}

#[test]
fn what_software_must_not_do_with_registers_is_kept() {
    let mut rig = Rig::new(AmdviConfig::default());
    rig.write64(0x18, 1 | 1 << 16);
    rig.write64(0x18, 0);
    rig.write64(0, DEVICE_TABLE | 1 << 9);
    rig.write64(0x18, 1);
    rig.write32(0, DEVICE_TABLE as u32);
    rig.write64(0x18, ON);
    use Violation::*;
    assert_eq!(
        rig.unit().violations(),
        [
            ControlReserved,
            DeviceTableNotSet,
            BaseReserved,
            DeviceTableTorn,
            // The command buffer's and the event log's.
            BaseNotSet,
            BaseNotSet,
        ]
    );
    let words = rig.machine.violations();
    assert_eq!(words[0], "unit 0: ControlReserved");
}

#[test]
fn a_request_that_a_unit_refuses_says_why() {
    let mut rig = Rig::translating(AmdviConfig::default());
    let blocked = rig.dma_read(0x9000).unwrap_err();
    assert_eq!(blocked.to_string(), "event 0x2 (PageFault)");
    assert!(blocked.is_by_tables() && !Blocked::NotMaster.is_by_tables());
}
