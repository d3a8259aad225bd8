//! The event log.

use crate::rig::*;
use iommu_sim::amdvi::{AmdviConfig, Violation};

#[test]
fn a_full_log_overflows_and_is_started_again() {
    let mut rig = Rig::translating(AmdviConfig::default());
    for page in 0..255 {
        assert_eq!(rig.dma_read(0x10_0000 + page * 4096), Err(FAULT));
    }
    assert_eq!((rig.read64(0x2018), rig.read64(0x2020)), (0xff0, 0x1a));
    assert_eq!(rig.dma_read(0x9_9000), Err(FAULT));
    // EventOverflow, and EventLogRun is clear.
    assert_eq!((rig.read64(0x2018), rig.read64(0x2020)), (0xff0, 0x13));
    for page in 0..255 {
        let expected = (0x2000_0007 << 32 | 0x10, 0x10_0000 + page * 4096);
        assert_eq!(rig.take_event(), Some(expected));
    }
    assert_eq!(rig.take_event(), None);
    assert_eq!(rig.dma_read(0x9_9000), Err(FAULT));
    assert_eq!(rig.take_event(), None, "it stands still");
    rig.write64(0x18, ON & !4);
    rig.write64(0x2020, 1);
    rig.write64(0x18, ON);
    assert_eq!(rig.read64(0x2020), 0x1a);
    assert_eq!(rig.read_event(0x9_9000).1, 0x9_9000);
    assert_eq!(rig.read64(0x2018), 0, "it wraps");
    assert_eq!(rig.unit().violations(), []);
}

#[test]
fn started_again_with_its_overflow_it_stands_still() {
    let mut rig = Rig::translating(AmdviConfig::default());
    for _ in 0..256 {
        assert_eq!(rig.dma_read(0x9_9000), Err(FAULT));
    }
    rig.write64(0x18, ON & !4);
    rig.write64(0x18, ON);
    assert_eq!(rig.read64(0x2020) & 9, 1);
    assert_eq!(rig.unit().violations(), [Violation::EventLogOverflown]);
}

#[test]
fn an_event_sets_its_status_and_sends_one_interrupt() {
    let mut rig = Rig::translating(AmdviConfig::default());
    let function = "0000:00:00.2".parse().unwrap();
    for (at, value) in [(0x84, 0xfee0_0000), (0x8c, 0x42), (0x80, 1 << 16)] {
        rig.machine.config_write(function, at, value);
    }
    rig.write64(0x18, ON | 1 << 3);
    assert_eq!((rig.dma_read(0x9000), rig.dma_read(0x9000)), (Err(FAULT), Err(FAULT)));
    assert_eq!(rig.read32(0x2020), 0x1a);
    let interrupts = rig.machine.take_interrupts();
    assert_eq!(interrupts.len(), 0, "they are collected when registers are written or time passes");
    rig.machine.advance(1);
    let interrupts = rig.machine.take_interrupts();
    assert_eq!((interrupts.len(), interrupts[0].data), (1, 0x42));
    rig.write32(0x2020, 2);
    assert_eq!(rig.read32(0x2020), 0x18);
    assert_eq!(rig.dma_read(0x9000), Err(FAULT));
    rig.machine.advance(2);
    assert_eq!(rig.machine.take_interrupts().len(), 1);
}

#[test]
fn page_faults_are_suppressed_where_the_entry_says_so() {
    // SA: none; SE: one until the entry is invalidated.
    for (bit, logged) in [(1 << 34, [0, 0, 0]), (1 << 33, [1, 0, 1]), (0, [1, 1, 1])] {
        let mut rig = Rig::new(AmdviConfig::default());
        rig.build();
        rig.put(EDU_ENTRY + 8, 7 | bit);
        rig.turn_on();
        let mut seen = Vec::new();
        for round in 0..3 {
            assert_eq!(rig.dma_read(0x9000), Err(FAULT));
            seen.push(std::iter::from_fn(|| rig.take_event()).count());
            if round == 1 {
                rig.submit(&[EDU]);
            }
        }
        assert_eq!(seen, logged);
    }
}

#[test]
fn a_unit_may_log_nothing_as_qemus_do_and_its_function_tells_of_the_abort() {
    let mut rig = Rig::translating(AmdviConfig { logs_events: false, ..AmdviConfig::default() });
    let function = "0000:00:00.2".parse().unwrap();
    let aborted = |rig: &Rig| rig.machine.config_read(function, 4) >> 27 & 1;
    assert_eq!((rig.dma_read(0x5000), aborted(&rig)), (Ok(0), 0));
    assert_eq!((rig.dma_read(0x9000), aborted(&rig)), (Err(FAULT), 1));
    rig.machine.config_write(function, 4, 1 << 27);
    assert_eq!(aborted(&rig), 0);
    assert_eq!((rig.take_event(), rig.read64(0x2020)), (None, 0x18));
}

#[test]
fn a_unit_may_tell_no_direction_where_nothing_is_present() {
    let mut rig =
        Rig::translating(AmdviConfig { direction_always: false, ..AmdviConfig::default() });
    rig.put(table(1) + 6 * 8, PAGE | R);
    assert_eq!(rig.write_event(0x9000).0 >> 48, 0x2000);
    assert_eq!(rig.write_event(0x6000).0 >> 48, 0x2070);
}

#[test]
fn nothing_is_logged_while_the_log_is_off() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.write64(0x18, ON & !4);
    assert_eq!(rig.dma_read(0x9000), Err(FAULT));
    assert_eq!((rig.take_event(), rig.read64(0x2020)), (None, 0x10));
}

#[test]
fn any_event_can_be_put_in() {
    let mut rig = Rig::translating(AmdviConfig::default());
    rig.machine.log_amdvi_event(0, 9 << 60 | 0x10, 0x1234);
    assert_eq!(rig.take_event(), Some((9 << 60 | 0x10, 0x1234)));
}

#[test]
fn what_software_must_not_do_with_the_log_is_kept() {
    let mut rig = Rig::translating(AmdviConfig::default());
    assert_eq!(rig.dma_read(0x9000), Err(FAULT));
    rig.write64(0x2010, 0x20);
    rig.write64(0x2010, 0x1000);
    rig.write64(0x10, EVENT_BASE);
    rig.write64(0x18, ON & !4);
    rig.write64(0x10, 0x9000_0000 | 8 << 56);
    rig.write64(0x18, ON);
    assert_eq!(rig.dma_read(0x9000), Err(FAULT));
    use Violation::*;
    let expected = [EventHead, EventHead, EventLogWhileRunning, EventLogMemory];
    assert_eq!(rig.unit().violations(), expected);
}
