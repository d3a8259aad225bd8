//! What is written to a unit on its way.

use alloc::vec::Vec;

use crate::amdvi::fake::{FakeMachine, spec};
use crate::amdvi::unit::Unit;
use crate::platform::TableFrames;
use crate::unit::{DEADLINE, UnitFailure, UnitState};

const DEVICE_TABLE: usize = 0x00;
const CONTROL: usize = 0x18;
const EXCLUSION: usize = 0x20;

/// What was written to the control register.
fn control(machine: &FakeMachine) -> Vec<u64> {
    let writes = machine.writes.iter().filter(|(offset, _)| *offset == CONTROL);
    writes.map(|(_, value)| *value).collect()
}

fn fail(machine: &mut FakeMachine, unit: &mut Unit) -> UnitFailure {
    unit.poll(machine);
    assert!(matches!(unit.state(), UnitState::Starting(_)), "{:?}", unit.state());
    machine.now += DEADLINE.as_nanos() as u64 + 1;
    unit.poll(machine);
    match unit.state() {
        UnitState::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_unit_that_is_off_is_told_everything_and_then_turned_on() {
    let mut machine = FakeMachine::new();
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    assert_eq!(machine.writes, [], "it is not touched before it is polled");
    unit.poll(&mut machine);
    assert_eq!(unit.state(), UnitState::Running);
    assert!(!unit.found_translating());
    assert_eq!(control(&machine), [0x1484, 0x1485]);
    assert_eq!(machine.word(DEVICE_TABLE), unit.root().get() | 0x1ff);
    let last_table = machine.writes.iter().rposition(|(offset, _)| *offset == DEVICE_TABLE);
    let on = machine.writes.iter().position(|write| *write == (CONTROL, 0x1485));
    assert!(last_table < on, "its tables are complete before");
    // Everything is forgotten, and that is confirmed.
    assert_eq!(machine.codes(), [8, 1]);
    assert_eq!(unit.open_tickets(), 0);
}

#[test]
fn r1_translation_that_was_on_stays_on_while_the_table_changes() {
    let mut machine = FakeMachine::new();
    // As a boot loader may leave it: translating, both rings on, and an exclusion range.
    machine.words[CONTROL / 8] = 0x148d;
    machine.words[0x2020 / 8] = 0x18;
    machine.words[EXCLUSION / 8] = 0x1000_0003;
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    unit.poll(&mut machine);
    assert_eq!((unit.state(), unit.found_translating()), (UnitState::Running, true));
    assert_eq!(control(&machine), [0x0481, 0x1485, 0x1485]);
    assert_eq!(machine.word(EXCLUSION), 0);
    assert_eq!(machine.codes(), [8, 1]);
}

#[test]
fn a_ring_of_firmware_s_that_stopped_by_itself_is_turned_off_before_ours_is_on() {
    // Turned on, and stopped at an error: with translation, and without.
    for found in [0x1005, 0x1004] {
        let mut machine = FakeMachine::new();
        machine.words[CONTROL / 8] = found;
        machine.stopped = true;
        let mut unit = Unit::new(&mut machine, &spec()).unwrap();
        unit.poll(&mut machine);
        assert_eq!(unit.state(), UnitState::Running);
        assert_eq!(control(&machine)[0], found & 1);
        assert_eq!(machine.codes(), [8, 1]);
    }
}

#[test]
fn translation_of_another_kind_is_turned_off_first() {
    // Guest translation and x2APIC; a table in segments.
    for found in [0x4_0000_0001_0001, 0xc_0000_0001] {
        let mut machine = FakeMachine::new();
        machine.words[CONTROL / 8] = found;
        let mut unit = Unit::new(&mut machine, &spec()).unwrap();
        unit.poll(&mut machine);
        assert_eq!((unit.state(), unit.found_translating()), (UnitState::Running, true));
        assert_eq!(control(&machine), [0, 0x1484, 0x1485]);
    }
}

#[test]
fn rings_of_firmware_s_that_do_not_stop_end_it() {
    let mut machine = FakeMachine::new();
    machine.words[CONTROL / 8] = 0x1005;
    machine.words[0x2020 / 8] = 0x90;
    machine.stops = false;
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    let failure = fail(&mut machine, &mut unit);
    let what = "turn off the command buffer and the logs that firmware left";
    assert_eq!(failure, UnitFailure::StartTimedOut { what });
    assert_eq!(machine.word(DEVICE_TABLE), 0, "its tables are firmware's still");
    // And so is its event log: turned on again, it would be written to memory that is anyone's by now.
    let before = machine.writes.len();
    assert!(!unit.take_faults(&mut machine, &mut Vec::new()));
    assert_eq!(machine.writes.len(), before);
}

#[test]
fn r2_a_unit_that_does_not_say_that_it_forgot_never_runs() {
    let mut machine = FakeMachine::new();
    machine.patience = 1;
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    let failure = fail(&mut machine, &mut unit);
    assert_eq!(failure, UnitFailure::StartTimedOut { what: "invalidate its caches" });
}

#[test]
fn a_unit_that_forgets_name_by_name_may_take_its_time() {
    let mut machine = FakeMachine::new();
    machine.words[0x30 / 8] = 0x800;
    machine.patience = 0;
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    while unit.state() != UnitState::Running {
        machine.patience = 200;
        machine.run();
        machine.now += 10_000_000;
        unit.poll(&mut machine);
        assert!(!matches!(unit.state(), UnitState::Failed(_)));
    }
    assert_eq!(machine.commands.len(), 3 * 65536 + 2);
    assert!(machine.now > 2 * DEADLINE.as_nanos() as u64);
}

#[test]
fn a_unit_that_vanishes_is_given_up() {
    let mut machine = FakeMachine::new();
    machine.patience = 0;
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    unit.poll(&mut machine);
    machine.words.fill(u64::MAX);
    unit.poll(&mut machine);
    assert_eq!(unit.state(), UnitState::Failed(UnitFailure::Vanished));
}

#[test]
fn r5_a_control_register_that_no_unit_answers_for_is_not_written_back() {
    let mut machine = FakeMachine::new();
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    machine.words[CONTROL / 8] = u64::MAX;
    unit.poll(&mut machine);
    assert_eq!(unit.state(), UnitState::Failed(UnitFailure::Vanished));
    assert_eq!(machine.writes, []);
}

#[test]
fn a_table_in_segments_is_told_so() {
    let mut machine = FakeMachine::new();
    machine.words[0x30 / 8] = 0x058f_77ef_2229_4ade;
    // No two MiB in one piece are left.
    while let Some(start) = machine.frames.alloc_table(512) {
        machine.frames.free_table(start, 511);
    }
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    unit.poll(&mut machine);
    assert_eq!(unit.state(), UnitState::Running);
    assert_eq!(control(&machine).last(), Some(&0x4_0000_1485));
    assert_eq!(machine.word(DEVICE_TABLE) & 0xfff, 0xff);
    assert_eq!(machine.word(0x100) & 0xfff, 0xff);
}
