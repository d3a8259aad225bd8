//! Registers, the queue, and how slow or dead they are.

use crate::rig::*;
use iommu_sim::vtd::{Completion, FaultReason, Health, Timing, Violation, VtdConfig};
use iommu_sim::{Blocked, MachineConfig};

#[test]
fn the_queue_invalidates_in_order_and_wraps() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.turn_queue_on();
    assert_eq!(rig.read32(0x1c), 0xc400_0000);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(table(1) + 5 * 8, 0);
    // A page-selective invalidation of domain 7, then a wait that writes 0xcafe.
    rig.submit(&[(7 << 16 | 0x32, 0x5000), (0xcafe << 32 | 0x25, STATUS)]);
    assert_eq!(rig.get(STATUS), 0xcafe);
    assert_eq!((rig.read64(0x80), rig.read64(0x88)), (0x20, 0x20));
    assert_eq!(rig.dma_read(0x5000), Err(Blocked::Fault(FaultReason::ReadDenied)));
    for number in 1..=300u64 {
        rig.submit(&[(number << 32 | 0x25, STATUS)]);
        assert_eq!(rig.get(STATUS), number);
    }
    assert_eq!(rig.read64(0x80), (302 % 256) * 16);
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn the_queue_invalidates_contexts_by_domain_and_device() {
    for descriptor in [0x11, 7 << 16 | 0x21, 0x10 << 32 | 7 << 16 | 0x31] {
        let mut rig = Rig::translating(VtdConfig::default());
        rig.turn_queue_on();
        assert_eq!(rig.dma_read(0x5000), Ok(0));
        rig.put(EDU_CONTEXT, 0);
        assert_eq!(rig.dma_read(0x5000), Ok(0));
        rig.submit(&[(descriptor, 0)]);
        let absent = Err(Blocked::Fault(FaultReason::ContextNotPresent));
        assert_eq!(rig.dma_read(0x5000), absent, "{descriptor:#x}");
    }
}

#[test]
fn a_wait_with_an_interrupt_sets_its_status_and_sends_one() {
    let mut rig = Rig::new(VtdConfig::default());
    rig.turn_queue_on();
    assert_eq!(rig.read32(0xa0), 1 << 31);
    rig.write32(0xa4, 0x41);
    rig.write32(0xa8, 0xfee0_0000);
    rig.write32(0xa0, 0);
    rig.submit(&[(0x15, 0), (0x15, 0)]);
    assert_eq!(rig.read32(0x9c), 1);
    let interrupts = rig.machine.take_interrupts();
    assert_eq!(interrupts.len(), 1);
    assert_eq!((interrupts[0].address, interrupts[0].data), (0xfee0_0000, 0x41));
    rig.write32(0x9c, 1);
    assert_eq!(rig.read32(0x9c), 0);
}

#[test]
fn r5_a_bad_descriptor_stops_the_queue_until_the_error_is_cleared() {
    let mut rig = Rig::new(VtdConfig::default());
    rig.turn_queue_on();
    rig.submit(&[(0x11, 0), (0xf, 0), (1 << 32 | 0x25, STATUS)]);
    assert_eq!(rig.read32(0x34), 0x10);
    assert_eq!(rig.read64(0x80), 0x10, "the head stays at it");
    assert_eq!(rig.read64(0xb0) & 0xf, 3);
    assert_eq!(rig.get(STATUS), 0);
    rig.put(QUEUE + 0x10, 0x12);
    rig.write32(0x34, 0x10);
    assert_eq!((rig.read32(0x34), rig.read64(0x80), rig.get(STATUS)), (0, 0x30, 1));
}

#[test]
fn r5_a_tail_or_queue_that_is_nowhere_is_an_error() {
    let mut rig = Rig::new(VtdConfig::default());
    rig.turn_queue_on();
    rig.write64(0x88, 0x1000);
    assert_eq!((rig.read32(0x34), rig.read64(0xb0) & 0xf), (0x10, 1));
    let mut rig = Rig::new(VtdConfig::default());
    rig.write64(0x90, 0x10_0000);
    rig.write32(0x18, 1 << 26);
    rig.write64(0x88, 0x10);
    assert_eq!((rig.read32(0x34), rig.read64(0xb0) & 0xf), (0x10, 2));
}

#[test]
fn device_tlbs_time_out_and_errors_are_cleared() {
    let mut rig = Rig::new(VtdConfig { device_tlb: true, ..VtdConfig::default() });
    rig.turn_queue_on();
    rig.submit(&[(0x10 << 32 | 3, 0), (1 << 32 | 0x25, STATUS)]);
    assert_eq!((rig.read32(0x34), rig.get(STATUS)), (0x40, 0));
    assert_eq!(rig.read64(0xb0) >> 32, 0x10);
    rig.write32(0x34, 0x40);
    assert_eq!((rig.read32(0x34), rig.get(STATUS)), (0, 1));
    rig.unit().inject_completion_error(0x10);
    assert_eq!(rig.read32(0x34), 0x20);
    rig.write32(0x34, 0x20);
    assert_eq!(rig.read32(0x34), 0);
}

#[test]
fn a_slow_unit_completes_in_its_time() {
    let slow = Completion::After(1000);
    let timing = Timing { commands: slow, registers: slow, queue: slow };
    let mut rig = Rig::new(VtdConfig { timing, ..VtdConfig::default() });
    rig.build();
    rig.write64(0x20, ROOT);
    rig.write32(0x18, 1 << 30);
    rig.machine.advance(999);
    assert_eq!(rig.read32(0x1c), 0);
    rig.machine.advance(1000);
    assert_eq!(rig.read32(0x1c), 1 << 30);
    rig.write64(0x28, 1 << 63 | 1 << 61);
    rig.machine.advance(1999);
    assert_eq!(rig.read64(0x28) >> 59, 0b10100);
    rig.machine.advance(2000);
    assert_eq!(rig.read64(0x28) >> 59, 0b00101);
    rig.write64(0xf8, 1 << 63 | 1 << 60);
    rig.machine.advance(3000);
    assert_eq!(rig.read64(0xf8) >> 57, 0b0001001);
    rig.write32(0x18, 1 << 31);
    rig.write32(0x64, 1 << 31);
    rig.machine.advance(4000);
    assert_eq!((rig.read32(0x1c), rig.read32(0x64)), (0xc000_0000, 0x8000_0001));
    rig.write32(0x64, 0);
    rig.write64(0x90, QUEUE);
    rig.write32(0x18, 1 << 31 | 1 << 26);
    rig.machine.advance(5000);
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(table(1) + 5 * 8, 0);
    rig.submit(&[(0x12, 0), (1 << 32 | 0x25, STATUS)]);
    rig.machine.advance(5999);
    assert_eq!((rig.get(STATUS), rig.dma_read(0x5000)), (0, Ok(0)));
    rig.machine.advance(6000);
    assert_eq!(rig.get(STATUS), 1);
    assert_eq!(rig.dma_read(0x5000), Err(Blocked::Fault(FaultReason::ReadDenied)));
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn a_stuck_unit_completes_nothing_until_it_is_freed() {
    let mut rig = Rig::translating(VtdConfig::default());
    rig.turn_queue_on();
    let queue = Completion::Never;
    rig.unit().set_timing(Timing { queue, ..Timing::default() });
    rig.submit(&[(1 << 32 | 0x25, STATUS)]);
    rig.machine.advance(u64::MAX / 2);
    assert_eq!((rig.get(STATUS), rig.read64(0x80)), (0, 0));
    rig.write32(0x18, 1 << 31);
    assert_eq!(rig.read32(0x1c), 0xc400_0000, "the queue turns off once it is empty");
    rig.unit().set_timing(Timing::default());
    rig.machine.advance(u64::MAX / 2);
    assert_eq!((rig.get(STATUS), rig.read32(0x1c)), (1, 0xc000_0000));
}

#[test]
fn a_unit_without_a_queue_has_registers_only() {
    let mut rig =
        Rig::translating(VtdConfig { queued_invalidation: false, ..VtdConfig::default() });
    assert_eq!(rig.read64(0x10) & 2, 0);
    rig.turn_queue_on();
    assert_eq!(rig.read32(0x1c), 0xc000_0000);
    rig.submit(&[(1 << 32 | 0x25, STATUS)]);
    assert_eq!((rig.read64(0x88), rig.read64(0x90), rig.get(STATUS)), (0, 0, 0));
}

#[test]
fn what_software_must_not_do_is_kept() {
    let mut rig = Rig::new(VtdConfig::default());
    rig.write32(0x18, 1 << 31);
    rig.write64(0x20, ROOT | 1 << 10);
    rig.write32(0x18, 1 << 30);
    rig.write32(0x18, 1 << 31);
    rig.write64(0x88, 0x10);
    rig.turn_queue_on();
    rig.write64(0x90, QUEUE);
    rig.write64(0x28, 1 << 63 | 1 << 61);
    assert_eq!(rig.read64(0x28) >> 63, 1, "it is never done");
    use Violation::*;
    assert_eq!(
        rig.unit().violations(),
        [
            RootTableNotSet,
            // SRTP without TE in the same write turns translation off.
            SeveralCommands,
            RootTableMode,
            RootTableNotInvalidated,
            QueueTailNotZero,
            // Each half of the 64-bit register.
            QueueAddressWhileOn,
            QueueAddressWhileOn,
            RegisterInvalidationWithQueue,
        ]
    );
}

#[test]
fn busy_registers_are_not_to_be_written() {
    let slow = Completion::After(10);
    let timing = Timing { commands: slow, registers: slow, queue: slow };
    let mut rig = Rig::new(VtdConfig { timing, ..VtdConfig::default() });
    rig.write32(0x18, 1 << 30);
    rig.write32(0x18, 1 << 30);
    rig.write64(0x28, 1 << 63 | 1 << 61);
    rig.write32(0x2c, 1 << 31 | 1 << 29);
    rig.write64(0xf8, 1 << 63 | 1 << 60);
    use Violation::*;
    let expected = [CommandWhileBusy, InvalidationWhileBusy, IotlbBeforeContext];
    assert_eq!(rig.unit().violations(), expected);
}

#[test]
fn protected_regions_block_before_and_behind_translation() {
    let mut rig = Rig::translating(VtdConfig::default());
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.write32(0x68, 0);
    rig.write32(0x6c, 0);
    rig.write32(0x64, 1 << 31);
    assert_eq!(rig.read32(0x64), 0x8000_0001);
    assert_eq!(rig.dma_read(0x5000), Err(Blocked::Protected));
    rig.write32(0x18, 0);
    assert_eq!(rig.dma_read(PAGE), Err(Blocked::Protected));
    assert_eq!(rig.read32(0x34), 0, "it is not a fault");
    rig.write32(0x64, 0);
    assert_eq!(rig.dma_read(PAGE), Ok(0));
}

#[test]
fn interrupt_remapping_commands_are_acknowledged_where_there_is_any() {
    let mut rig = Rig::new(VtdConfig { interrupt_remapping: true, ..VtdConfig::default() });
    rig.write32(0x18, 1 << 24);
    rig.write32(0x18, 1 << 25);
    assert_eq!(rig.read32(0x1c), 3 << 24);
    let mut rig = Rig::new(VtdConfig::default());
    rig.write32(0x18, 1 << 25);
    assert_eq!(rig.read32(0x1c), 0);
}

#[test]
fn a_dead_unit_reads_as_ones_or_zeroes_and_translates_nothing() {
    for (health, word) in [(Health::AllOnes, u32::MAX), (Health::AllZeroes, 0)] {
        let mut rig = Rig::translating(VtdConfig::default());
        rig.unit().set_health(health);
        for at in [0, 8, 0x10, 0x1c, 0x34, 0x220, 0xffc] {
            assert_eq!(rig.read32(at), word);
        }
        rig.write32(0x18, 0);
        assert_eq!(rig.dma_read(PAGE), Ok(0));
    }
}

#[test]
fn firmware_may_leave_translation_and_the_queue_on() {
    let mut rig = Rig::new(VtdConfig::default());
    rig.build();
    rig.unit().firmware_left_translation_on(ROOT);
    rig.unit().firmware_left_queue_on(QUEUE);
    assert_eq!(rig.read32(0x1c), 0xc400_0000);
    assert_eq!((rig.read64(0x20), rig.read64(0x80), rig.read64(0x90)), (ROOT, 0x40, QUEUE));
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    assert_eq!(rig.read_fault(0x6000), FaultReason::ReadDenied);
    rig.write32(0x18, 1 << 31);
    assert_eq!((rig.read32(0x1c), rig.read64(0x80)), (0xc000_0000, 0));
}

#[test]
fn registers_move_with_their_offsets_and_the_window_grows() {
    let unit = VtdConfig {
        fault_offset: 0x1000,
        fault_records: 2,
        iotlb_offset: 0x500,
        ..VtdConfig::default()
    };
    let mut rig = Rig::with(MachineConfig::with_unit(unit));
    rig.build();
    rig.write64(0x20, ROOT);
    rig.write32(0x18, 1 << 30);
    rig.write64(0x28, 1 << 63 | 1 << 61);
    rig.write64(0x508, 1 << 63 | 1 << 60);
    assert_eq!(rig.read64(0x508) >> 57, 0b0001001);
    rig.write32(0x18, 1 << 31);
    assert_eq!(rig.dma_read(0x6000), Err(Blocked::Fault(FaultReason::ReadDenied)));
    assert_eq!((rig.read64(0x1000), rig.read64(0x1008)), (0x6000, 0xc000_0006_0000_0010));
    assert!(rig.machine.is_mmio(UNIT, 0x2000) && !rig.machine.is_mmio(UNIT, 0x2001));
    assert_eq!(rig.unit().violations(), []);
}
