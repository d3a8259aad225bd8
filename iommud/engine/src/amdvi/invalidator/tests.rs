//! What is confirmed, and when.

use super::*;
use crate::amdvi::fake::FakeMachine;

const DOMAIN: DomainId = DomainId::new(5);
const DEVICE: SourceId = SourceId::new(0x10);
const FORGET: [Invalidation; 2] = [Invalidation::Device(DEVICE), Invalidation::Domain(DOMAIN)];

/// A machine whose unit runs our command buffer.
fn running(has_all: bool) -> (FakeMachine, RegisterFile, Invalidator) {
    let mut machine = FakeMachine::new();
    let registers = FakeMachine::registers();
    let buffer = CommandBuffer::new(&mut machine).unwrap();
    let control = Control::new().with_translation(true).with_command_buffer(true);
    let mut invalidator = Invalidator::new(buffer, control, has_all, Vec::new());
    invalidator.install(&mut machine, &registers);
    registers.write(&mut machine, control);
    (machine, registers, invalidator)
}

#[test]
fn r2_an_entry_is_forgotten_before_what_was_found_by_it() {
    let (mut machine, registers, mut invalidator) = running(true);
    let ticket = invalidator.submit(&mut machine, &registers, FORGET);
    assert_eq!(machine.codes(), [2, 1, 3, 1]);
    assert_eq!((ticket, invalidator.confirmed()), (Ticket(1), Ticket(1)));
    invalidator.submit(&mut machine, &registers, [FORGET[0]]);
    assert_eq!(machine.codes(), [2, 1]);
}

#[test]
fn a_full_buffer_makes_the_line_wait_and_loses_nothing() {
    let (mut machine, registers, mut invalidator) = running(true);
    machine.patience = 0;
    for _ in 0..300 {
        invalidator.submit(&mut machine, &registers, FORGET);
    }
    assert_eq!((invalidator.open(), invalidator.confirmed()), (300, Ticket(0)));
    for _ in 0..20 {
        machine.patience = 70;
        machine.run();
        assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
    }
    assert_eq!((invalidator.open(), invalidator.confirmed()), (0, Ticket(300)));
    let codes = machine.codes();
    assert_eq!(codes.len(), 1200);
    assert!(codes.chunks(4).all(|codes| codes == [2, 1, 3, 1]));
}

#[test]
fn r2_a_unit_without_the_command_forgets_everything_name_by_name() {
    let (mut machine, registers, mut invalidator) = running(false);
    let ticket = invalidator.submit_everything(&mut machine, &registers);
    assert_eq!(invalidator.confirmed(), ticket);
    let commands = core::mem::take(&mut machine.commands);
    assert_eq!(commands.len(), 3 * 65536 + 2);
    assert!((0..65536).all(|n| commands[n] == [0x2000_0000_0000_0000 | n as u64, 0]));
    assert_eq!(commands[65536][0], 0x1000_0000_0000_0004);
    let domains = &commands[65537..][..65536];
    let domain = |n: usize| [0x3000_0000_0000_0000 | (n as u64) << 32, 0x7fff_ffff_ffff_f003];
    assert!((0..65536).all(|n| domains[n] == domain(n)));
    assert_eq!(commands[3 * 65536][0], 0x5000_0000_0000_ffff);
}

#[test]
fn requesters_that_must_be_named_are() {
    let (mut machine, registers, mut invalidator) = running(true);
    invalidator.named = alloc::vec![SourceId::new(3)..=SourceId::new(5), DEVICE..=DEVICE];
    invalidator.submit_everything(&mut machine, &registers);
    let low: Vec<u64> = machine.commands.iter().map(|[low, _]| *low).collect();
    assert_eq!(low[0], 8 << 60);
    assert_eq!(low[1..5], [3, 4, 5, 0x10].map(|source| 2 << 60 | source));
}

#[test]
fn r2_after_a_stop_nothing_is_confirmed_before_everything_is_forgotten() {
    let (mut machine, registers, mut invalidator) = running(true);
    machine.stop_at = Some(3);
    let ticket = invalidator.submit(&mut machine, &registers, FORGET);
    let after = invalidator.submit(&mut machine, &registers, [FORGET[0]]);
    assert_eq!((machine.codes(), invalidator.confirmed()), ([2, 1].into(), Ticket(0)));

    machine.patience = 1;
    assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
    assert_eq!(machine.codes(), [8]);
    // An old fence that comes late confirms nothing.
    machine.store(invalidator.buffer.status_address(), after.0);
    assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
    assert_eq!(invalidator.confirmed(), Ticket(0));

    machine.patience = 1;
    machine.run();
    assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
    assert!(invalidator.confirmed() > after && after > ticket);
    assert_eq!(invalidator.open(), 0);
    // And the next stop is a new one.
    machine.patience = usize::MAX;
    machine.stop_at = Some(2);
    let next = invalidator.submit(&mut machine, &registers, FORGET);
    assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
    assert!(invalidator.confirmed() > next);
}

#[test]
fn after_a_stop_what_was_still_to_be_asked_for_is_not() {
    let (mut machine, registers, mut invalidator) = running(true);
    machine.patience = 0;
    for _ in 0..300 {
        invalidator.submit(&mut machine, &registers, FORGET);
    }
    assert!(!invalidator.line.is_empty(), "more than there is room for");
    machine.patience = usize::MAX;
    machine.stop_at = Some(3);
    machine.run();
    assert_eq!(machine.codes(), [2, 1]);
    assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
    assert_eq!(machine.codes(), [8, 1], "everything is forgotten, and so nothing of it by name");
    assert_eq!((invalidator.open(), invalidator.confirmed()), (0, Ticket(301)));
}

#[test]
fn r1_a_buffer_runs_again_without_anything_else_being_as_the_unit_made_it_up() {
    for noise in [0, u64::MAX, 0x10_0000_3004] {
        let (mut machine, registers, mut invalidator) = running(true);
        machine.stop_at = Some(3);
        invalidator.submit(&mut machine, &registers, FORGET);
        machine.words[0x18 / 8] = noise;
        machine.writes.clear();
        assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
        let control: Vec<u64> =
            machine.writes.iter().filter(|it| it.0 == 0x18).map(|it| it.1).collect();
        assert_eq!(control, [0x1, 0x1001], "{noise:#x}");
    }
}

#[test]
fn r2_a_unit_that_stops_again_is_given_up() {
    let (mut machine, registers, mut invalidator) = running(true);
    machine.stop_at = Some(3);
    invalidator.submit(&mut machine, &registers, FORGET);
    machine.stop_at = Some(8);
    assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
    assert_eq!(invalidator.poll(&mut machine, &registers), Err(UnitFailure::QueueStopped));
    assert_eq!(invalidator.confirmed(), Ticket(0));
}

#[test]
fn r5_numbers_that_were_never_asked_for_confirm_nothing() {
    let (mut machine, registers, mut invalidator) = running(true);
    machine.patience = 0;
    invalidator.submit(&mut machine, &registers, FORGET);
    for number in [2, u64::MAX] {
        machine.store(invalidator.buffer.status_address(), number);
        assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
        assert_eq!(invalidator.confirmed(), Ticket(0));
    }
}

#[test]
fn time_counts_from_the_last_thing_that_the_unit_did() {
    let (mut machine, registers, mut invalidator) = running(false);
    machine.patience = 100;
    invalidator.submit_everything(&mut machine, &registers);
    machine.now = 900;
    assert_eq!(invalidator.stuck_for(machine.now()), Some(Duration::from_nanos(900)));
    // As far as the next mark.
    machine.patience = 30;
    machine.run();
    assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
    assert_eq!(invalidator.stuck_for(machine.now()), Some(Duration::ZERO));
    machine.now = 2000;
    assert_eq!(invalidator.poll(&mut machine, &registers), Ok(()));
    assert_eq!(invalidator.stuck_for(machine.now()), Some(Duration::from_nanos(1100)));
}

#[test]
fn a_unit_that_is_gone_is_noticed() {
    let (mut machine, registers, mut invalidator) = running(true);
    machine.patience = 0;
    invalidator.submit(&mut machine, &registers, FORGET);
    machine.words.fill(u64::MAX);
    assert_eq!(invalidator.poll(&mut machine, &registers), Err(UnitFailure::Vanished));
}
