//! The command buffer, and how slow or stuck it is.

use crate::rig::*;
use iommu_sim::amdvi::{AmdviConfig, AmdviTiming, Violation};
use iommu_sim::pace::Completion;

#[test]
fn commands_are_carried_out_in_order_and_the_buffer_wraps() {
    let mut rig = Rig::translating(AmdviConfig::default());
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(table(1) + 5 * 8, 0);
    rig.submit(&[pages(0x5000), wait(0xcafe)]);
    assert_eq!(rig.get(STATUS), 0xcafe);
    assert_eq!((rig.read64(0x2000), rig.read64(0x2008)), (0x20, 0x20));
    assert_eq!(rig.dma_read(0x5000), Err(FAULT));
    for number in 1..=300 {
        rig.submit(&[wait(number)]);
        assert_eq!(rig.get(STATUS), number);
    }
    assert_eq!(rig.read64(0x2000), (302 % 256) * 16);
    assert_eq!(rig.unit().violations(), []);
    assert_eq!(rig.unit().counters().commands, 302);
}

#[test]
fn a_wait_stores_all_64_bits_or_nothing() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.put(0x4000_0008, 1);
    rig.submit(&[(1 << 60 | 0x4000_0008 | 5, 0x0123_4567_89ab_cdef)]);
    assert_eq!(rig.get(0x4000_0008), 0x0123_4567_89ab_cdef);
    rig.submit(&[(1 << 60 | STATUS, 7)]);
    assert_eq!(rig.get(STATUS), 0, "no store was asked for");
    rig.submit(&[(1 << 60 | 0x9000_0001, 7)]);
    assert_eq!(rig.unit().violations(), [Violation::StoreAddress]);
}

#[test]
fn a_wait_with_an_interrupt_sets_its_status_and_sends_one() {
    let mut rig = Rig::translating(AmdviConfig::default());
    let function = "0000:00:00.2".parse().unwrap();
    // The MSI capability follows the IOMMU's own.
    for (at, value) in [(0x84, 0xfee0_0000), (0x8c, 0x41), (0x80, 1 << 16)] {
        rig.machine.config_write(function, at, value);
    }
    rig.submit(&[(1 << 60 | 2, 0)]);
    assert_eq!(rig.read64(0x2020), 0x1c);
    assert_eq!(rig.machine.take_interrupts(), [], "ComWaitIntEn is clear");
    rig.write64(0x2020, 4);
    assert_eq!(rig.read64(0x2020), 0x18);
    rig.write64(0x18, ON | 1 << 4);
    rig.submit(&[(1 << 60 | 2, 0), (1 << 60 | 2, 0)]);
    let interrupts = rig.machine.take_interrupts();
    assert_eq!(interrupts.len(), 1, "one until the status is cleared");
    assert_eq!((interrupts[0].address, interrupts[0].data), (0xfee0_0000, 0x41));
}

#[test]
fn r5_an_illegal_command_stops_the_buffer_until_it_is_restarted() {
    let prefetch = (6 << 60 | 0x10, 0);
    let device_tlb = (4 << 60 | 0x10, 0);
    for illegal in [(0, 0), (0xf << 60, 0), prefetch, device_tlb, (8 << 60, 1)] {
        let mut rig = Rig::translating(AmdviConfig::default());
        rig.submit(&[wait(1), illegal, wait(2)]);
        assert_eq!((rig.get(STATUS), rig.read64(0x2020)), (1, 0xa));
        assert_eq!(rig.take_event(), Some((5 << 60, COMMANDS + 0x10)));
        assert_eq!(rig.read64(0x2000), 0x10, "the head stays at it");
        rig.submit(&[wait(3)]);
        assert_eq!(rig.get(STATUS), 1);
        // Off and on again, with the head moved past it.
        rig.write64(0x18, ON & !(1 << 12));
        rig.write64(0x2000, 0x20);
        rig.write64(0x18, ON);
        assert_eq!((rig.get(STATUS), rig.read64(0x2020)), (3, 0x1a));
        assert_eq!(rig.unit().violations(), []);
    }
}

#[test]
fn without_invalidate_all_it_is_illegal() {
    let unit = AmdviConfig { invalidate_all: false, ..AmdviConfig::default() };
    let mut rig = Rig::translating(unit);
    rig.submit(&[ALL]);
    assert_eq!((rig.read64(0x30), rig.read64(0x2020) >> 4 & 1), (0x800, 0));
    let old = AmdviConfig { extended_features: false, ..AmdviConfig::default() };
    let mut rig = Rig::translating(old);
    rig.submit(&[ALL]);
    assert_eq!((rig.read64(0x30), rig.read64(0x2020) >> 4 & 1), (0, 0));
    let function = "0000:00:00.2".parse().unwrap();
    assert_eq!(rig.machine.config_read(function, 0x40) >> 27 & 1, 0);
}

#[test]
fn what_needs_a_feature_is_legal_with_it() {
    let unit = AmdviConfig { prefetch: true, device_tlb: true, ..AmdviConfig::default() };
    let mut rig = Rig::translating(unit);
    rig.submit(&[(6 << 60 | 0x10, 0), (5 << 60 | 0x10, 0), wait(1)]);
    assert_eq!((rig.get(STATUS), rig.take_event()), (1, None));
    // No device has a cache of its own: nobody answers, and the buffer goes on.
    rig.submit(&[(4 << 60 | 0x10, 0), wait(2)]);
    assert_eq!((rig.get(STATUS), rig.take_event()), (2, Some((7 << 60 | 0x10, COMMANDS + 0x30))));
}

#[test]
fn r5_a_tail_or_buffer_that_is_nowhere_stops_it() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.write64(0x2008, 0x1000);
    assert_eq!(rig.read64(0x2020) >> 4 & 1, 0);
    assert_eq!(rig.take_event(), Some((0x6200_0000 << 32, COMMANDS)));
    assert_eq!(rig.unit().violations(), [Violation::CommandTail]);
    let mut rig = Rig::new(AmdviConfig::default());
    rig.turn_on();
    rig.write64(0x18, 5);
    rig.write64(8, 0x9000_0000 | 8 << 56);
    rig.write64(0x18, ON);
    rig.write64(0x2008, 0x10);
    assert_eq!(rig.take_event(), Some((0x6200_0000 << 32, 0x9000_0000)));
}

#[test]
fn a_slow_unit_completes_in_its_time() {
    let slow = Completion::After(1000);
    let timing = AmdviTiming { commands: slow, stop: slow, looks_per_command: 0 };
    let mut rig = Rig::translating(AmdviConfig { timing, ..AmdviConfig::default() });
    assert_eq!(rig.dma_read(0x5000), Ok(0));
    rig.put(table(1) + 5 * 8, 0);
    rig.submit(&[pages(0x5000), wait(1)]);
    rig.machine.advance(999);
    assert_eq!((rig.get(STATUS), rig.dma_read(0x5000)), (0, Ok(0)));
    rig.machine.advance(1000);
    assert_eq!((rig.get(STATUS), rig.dma_read(0x5000)), (1, Err(FAULT)));
    rig.write64(0x18, 5);
    rig.machine.advance(1999);
    assert_eq!(rig.read64(0x2020) >> 4 & 1, 1);
    rig.machine.advance(2000);
    assert_eq!(rig.read64(0x2020) >> 4 & 1, 0);
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn a_command_may_take_some_looks() {
    let timing = AmdviTiming { looks_per_command: 3, ..AmdviTiming::default() };
    let mut rig = Rig::translating(AmdviConfig { timing, ..AmdviConfig::default() });
    rig.submit(&[wait(1), wait(2)]);
    let seen: Vec<_> = (0..6)
        .map(|_| {
            let seen = rig.get(STATUS);
            rig.read64(0x2020);
            seen
        })
        .collect();
    assert_eq!(seen, [0, 0, 1, 1, 1, 2]);
}

#[test]
fn a_stuck_unit_completes_nothing_until_it_is_freed() {
    let mut rig = Rig::translating(AmdviConfig::default());
    let commands = Completion::Never;
    rig.unit().set_timing(AmdviTiming { commands, ..AmdviTiming::default() });
    rig.submit(&[wait(1)]);
    rig.machine.advance(u64::MAX / 2);
    assert_eq!((rig.get(STATUS), rig.read64(0x2000)), (0, 0));
    rig.unit().set_timing(AmdviTiming::default());
    rig.machine.advance(u64::MAX / 2);
    assert_eq!(rig.get(STATUS), 1);
}

#[test]
fn a_unit_may_stop_at_a_command() {
    let mut rig = Rig::translating(AmdviConfig { stop_after: Some(2), ..AmdviConfig::default() });
    rig.submit(&[wait(1), wait(2), wait(3)]);
    assert_eq!((rig.get(STATUS), rig.read64(0x2020)), (2, 0xa));
    assert_eq!(rig.take_event(), Some((0x6200_0000 << 32, COMMANDS + 0x20)));
}

#[test]
fn what_software_must_not_do_with_the_buffer_is_kept() {
    let mut rig = Rig::translating(AmdviConfig::default());
    let commands = Completion::Never;
    rig.unit().set_timing(AmdviTiming { commands, ..AmdviTiming::default() });
    rig.submit(&[wait(1), wait(2), wait(3)]);
    // Back, past the head.
    rig.write64(0x2008, 0x10);
    rig.write64(0x2000, 0x10);
    rig.write64(8, COMMAND_BASE);
    rig.write64(0x18, 5);
    rig.write64(8, COMMANDS | 7 << 56);
    rig.write64(0x18, ON);
    rig.submit(&[pages(!0xffe)]);
    rig.unit().set_timing(AmdviTiming::default());
    rig.machine.advance(1);
    use Violation::*;
    assert_eq!(
        rig.unit().violations(),
        [
            CommandTail,
            CommandHeadWhileRunning,
            CommandBufferWhileRunning,
            BaseReserved,
            InvalidationSize
        ]
    );
    let mut rig = Rig::translating(AmdviConfig::default());
    let stop = Completion::Never;
    rig.unit().set_timing(AmdviTiming { stop, ..AmdviTiming::default() });
    rig.write64(0x18, 5);
    rig.write64(0x18, ON);
    assert_eq!(rig.unit().violations(), [CommandBufferNotStopped]);
}
