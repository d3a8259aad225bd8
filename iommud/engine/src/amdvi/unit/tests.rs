//! What a unit does for those who use it.

use super::*;
use crate::acpi::ivrs::DteSettings;
use crate::amdvi::fake::{BASE, FakeMachine, Owner, spec};
use crate::amdvi::probe::UnitRefusal;
use crate::fault::{FaultReason, Tried};
use crate::platform::MsiMessage;
use crate::unit::Touched;
use dma_types::Iova;
use proptest::prelude::*;

const DEVICE: SourceId = SourceId::new(0x0010);
const DOMAIN: DomainId = DomainId::new(5);
const ROOT: PhysAddr = PhysAddr::new(0x5000);
const TRANSLATION: Translation = Translation { domain: DOMAIN, table: ROOT, levels: 3 };
const CHANGED: Changed =
    Changed { start: Iova::new(0x2000), bytes: 0x2000, touched: Touched::Leaves };

/// NpCache, in the header of the capability.
const CACHES_ABSENT: u32 = 1 << 26;

/// A unit that runs: a real one, which keeps nothing that is not present, or a virtual one.
fn running(caches_absent: bool) -> (FakeMachine, Unit) {
    let mut machine = FakeMachine::new();
    if !caches_absent {
        machine.config.words[0x40 / 4] &= !CACHES_ABSENT;
    }
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    unit.poll(&mut machine);
    assert_eq!(unit.state(), UnitState::Running);
    machine.commands.clear();
    (machine, unit)
}

fn entry(machine: &FakeMachine, unit: &Unit) -> [u64; 2] {
    let table = machine.frames.table(unit.root()).unwrap();
    let word = usize::from(DEVICE.get()) * 4;
    [0, 1].map(|n| table[word + n].load(core::sync::atomic::Ordering::Relaxed))
}

#[test]
fn r2_attaching_makes_the_unit_forget_that_the_device_was_blocked() {
    let (mut machine, mut unit) = running(false);
    let ticket = unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
    assert_eq!(ticket, Some(unit.confirmed()));
    assert_eq!(entry(&machine, &unit), [0x6000_0000_0000_5603, 5]);
    assert_eq!(machine.codes(), [2, 1]);
    let (mut machine, mut unit) = running(true);
    unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
    assert_eq!(machine.codes(), [2, 1, 3, 1]);
}

#[test]
fn r2_detaching_makes_the_unit_forget_the_entry_and_then_the_domain() {
    let (mut machine, mut unit) = running(false);
    let blocked = entry(&machine, &unit);
    unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
    machine.commands.clear();
    let ticket = unit.detach(&mut machine, DEVICE, DOMAIN);
    assert_eq!(ticket, Some(unit.confirmed()));
    assert_eq!(entry(&machine, &unit), blocked);
    assert_eq!(machine.commands[2], [0x3000_0005_0000_0000, 0x7fff_ffff_ffff_f003]);
    assert_eq!(machine.codes(), [2, 1, 3, 1]);
}

#[test]
fn a_root_that_grew_needs_the_entry_forgotten_alone() {
    let (mut machine, mut unit) = running(false);
    unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
    machine.commands.clear();
    let grown = Translation { table: PhysAddr::new(0x6000), levels: 4, ..TRANSLATION };
    let ticket = unit.retarget(&mut machine, DEVICE, grown);
    assert_eq!((ticket, machine.codes()), (Some(unit.confirmed()), [2, 1].into()));
    assert_eq!(entry(&machine, &unit), [0x6000_0000_0000_6803, 5]);
    // A device that is attached to no domain, or to another, has no root that grew.
    assert_eq!(unit.retarget(&mut machine, SourceId::new(0x18), grown), None);
    let other = Translation { domain: DomainId::new(6), ..grown };
    assert_eq!(unit.retarget(&mut machine, DEVICE, other), None);
}

#[test]
fn what_changed_is_forgotten_and_what_is_new_only_where_absence_is_kept() {
    let (mut machine, mut unit) = running(false);
    unit.invalidate(&mut machine, DOMAIN, &[CHANGED]);
    assert_eq!(machine.commands[0], [0x3000_0005_0000_0000, 0x2001]);
    assert_eq!(machine.codes(), [3, 1]);
    assert!(unit.sees_by_itself());
    let (mut machine, mut unit) = running(true);
    assert!(!unit.sees_by_itself());
    let ticket = unit.mapped(&mut machine, DOMAIN, CHANGED);
    assert_eq!((ticket, machine.codes()), (unit.confirmed(), [3, 1].into()));
}

#[test]
fn r1_a_table_of_no_depth_is_not_attached() {
    let (mut machine, mut unit) = running(false);
    let blocked = entry(&machine, &unit);
    for levels in [0, 7] {
        let translation = Translation { levels, ..TRANSLATION };
        let refused = unit.attach(&mut machine, DEVICE, translation);
        assert_eq!(refused, Err(Unusable::OutOfFrames));
    }
    assert_eq!((entry(&machine, &unit), machine.codes()), (blocked, [].into()));
}

#[test]
fn a_unit_that_does_not_run_yet_is_asked_for_nothing() {
    let mut machine = FakeMachine::new();
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    let ticket = unit.attach(&mut machine, DEVICE, TRANSLATION).unwrap();
    assert_eq!((ticket, machine.writes.len()), (Some(Ticket::FIRST), 0));
    unit.poll(&mut machine);
    assert_eq!(unit.confirmed(), Ticket::FIRST);
}

#[test]
fn r2_a_unit_that_confirms_nothing_is_given_up_and_asked_for_nothing_more() {
    let (mut machine, mut unit) = running(false);
    machine.patience = 0;
    let ticket = unit.invalidate(&mut machine, DOMAIN, &[CHANGED]);
    unit.poll(&mut machine);
    machine.now += DEADLINE.as_nanos() as u64 + 1;
    unit.poll(&mut machine);
    assert_eq!(unit.state(), UnitState::Failed(UnitFailure::InvalidationTimedOut));
    assert!(unit.confirmed() < ticket);
    assert_eq!(unit.invalidate(&mut machine, DOMAIN, &[CHANGED]), Ticket::NEVER);
    assert_eq!(unit.detach(&mut machine, DEVICE, DOMAIN), Some(Ticket::NEVER));
}

#[test]
fn r2_a_command_buffer_that_stopped_confirms_nothing_and_goes_on() {
    let (mut machine, mut unit) = running(false);
    machine.stop_at = Some(3);
    let ticket = unit.invalidate(&mut machine, DOMAIN, &[CHANGED]);
    assert!(unit.confirmed() < ticket);
    unit.poll(&mut machine);
    assert_eq!((unit.state(), machine.codes()), (UnitState::Running, [8, 1].into()));
    assert!(unit.confirmed() > ticket);
    // And the log says what it stopped at.
    let mut faults = Vec::new();
    assert!(!unit.take_faults(&mut machine, &mut faults));
    assert_eq!((faults[0].device, faults[0].reason), (None, FaultReason::Command));
}

#[test]
fn faults_are_read_once_the_unit_runs() {
    let (mut machine, mut unit) = running(false);
    machine.log([0x2020_0000_0000_0010, 0xdead_b000]);
    let mut faults = Vec::new();
    assert!(!unit.take_faults(&mut machine, &mut faults));
    let told = (faults[0].device, faults[0].tried, faults[0].reason);
    assert_eq!(told, (Some(DEVICE), Tried::Write, FaultReason::NoDomain));
}

#[test]
fn a_virtual_unit_is_told_of_every_entry_that_firmware_names() {
    let mut machine = FakeMachine::new();
    let all = (DEVICE..=SourceId::new(0x12), DteSettings::new());
    let one = (DEVICE..=DEVICE, DteSettings::new());
    // However often it names one.
    let settings = alloc::vec![one.clone(), all, one];
    let mut unit = Unit::new(&mut machine, &UnitSpec { settings, ..spec() }).unwrap();
    unit.poll(&mut machine);
    assert_eq!(unit.state(), UnitState::Running);
    assert_eq!(machine.codes(), [8, 2, 2, 2, 1]);
}

#[test]
fn r1_a_virtual_unit_is_told_of_every_entry_that_changed_before_it_runs() {
    for (caches_absent, codes) in [(true, &[8, 2, 2, 1][..]), (false, &[8, 1])] {
        let mut machine = FakeMachine::new();
        if !caches_absent {
            machine.config.words[0x40 / 4] &= !CACHES_ABSENT;
        }
        let mut unit = Unit::new(&mut machine, &spec()).unwrap();
        // Firmware names neither of them.
        let other = SourceId::new(0x0300);
        for source in [DEVICE, other, DEVICE] {
            unit.attach(&mut machine, source, TRANSLATION).unwrap();
        }
        unit.detach(&mut machine, other, DOMAIN);
        unit.poll(&mut machine);
        assert_eq!(unit.state(), UnitState::Running);
        assert_eq!(machine.codes(), codes);
    }
}

#[test]
fn r5_a_unit_that_makes_no_sense_keeps_no_memory() {
    let mut machine = FakeMachine::new();
    let elsewhere = UnitSpec { base: PhysAddr::new(0xfeb8_0000), ..spec() };
    let refusal = UnitRefusal::Elsewhere { base: BASE };
    assert_eq!(Unit::new(&mut machine, &elsewhere).unwrap_err(), refusal.into());
    let nowhere = UnitSpec { capability_offset: 0x44, ..spec() };
    let refusal = UnitRefusal::NoCapability { offset: 0x44 };
    assert_eq!(Unit::new(&mut machine, &nowhere).unwrap_err(), refusal.into());
    machine.words.fill(u64::MAX);
    let refusal = UnitRefusal::AllOnes("control");
    assert_eq!(Unit::new(&mut machine, &spec()).unwrap_err(), refusal.into());
    let mut machine = FakeMachine::new();
    while machine.frames.alloc_table(512).is_some() {}
    let live = machine.frames.live();
    assert_eq!(Unit::new(&mut machine, &spec()).unwrap_err(), Unusable::OutOfFrames);
    assert_eq!(machine.frames.live(), live);
}

#[test]
fn what_it_can_do_is_told() {
    let (_, mut unit) = running(true);
    let abilities = unit.abilities();
    assert_eq!((abilities.walks, abilities.address_bits), (Walks::AmdV1, 48));
    assert!(abilities.depths.contains(6) && abilities.coherent);
    assert!(unit.summary().caching_mode);
    assert_eq!(unit.domain_ids().take(), Some(DomainId::new(1)));
    assert_eq!((unit.domain_ids_in_use(), unit.base(), unit.segment()), (1, BASE, 0));
}

proptest! {
    // Each takes a whole device table.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn r5_no_noise_in_registers_or_memory_is_more_than_a_failure(
        noise in prop::collection::vec(any::<u64>(), 1..40),
        runs in any::<bool>(),
    ) {
        let mut machine = FakeMachine::new();
        let mut unit = Unit::new(&mut machine, &spec()).unwrap();
        if runs {
            unit.poll(&mut machine);
        }
        let mut faults = Vec::new();
        for noise in noise {
            // What the unit, gone mad, has in its registers and in the frame that it says how far it is in.
            let places = [0x18, 0x2000, 0x2008, 0x2010, 0x2018, 0x2020];
            machine.words[places[noise as usize % places.len()] / 8] = noise.rotate_left(13);
            machine.patience = (noise % 7) as usize;
            machine.stop_at = (noise % 5 == 0).then_some(noise % 9);
            unit.poll(&mut machine);
            let ticket = unit.invalidate(&mut machine, DOMAIN, &[CHANGED]);
            prop_assert!(unit.confirmed() <= ticket);
            unit.take_faults(&mut machine, &mut faults);
            prop_assert!(faults.len() <= 256 * 40);
        }
    }
}

/// A machine with a message, whose unit's function has MSI at 64h.
fn with_message(owner: Owner) -> FakeMachine {
    let mut machine = FakeMachine::new();
    machine.message = Some(MsiMessage { address: PhysAddr::new(0xfee0_3000), data: 0x51 });
    machine.owner = owner;
    machine.config.words[1] = 0x0010_0003;
    machine.config.words[0x34 / 4] = 0x40;
    machine.config.words[0x40 / 4] = 0x1f03_640f;
    machine.config.words[0x64 / 4] = 0x0080_0005;
    machine
}

#[test]
fn a_unit_s_function_is_claimed_before_it_is_told_of_its_message() {
    let mut machine = with_message(Owner::Nobody);
    let mut unit = Unit::new(&mut machine, &spec()).unwrap();
    assert_eq!(machine.owner, Owner::Engine);
    let expected = [
        (0x64, 0x0080_0005),
        (0x68, 0xfee0_3000),
        (0x6c, 0),
        (0x70, 0x51),
        (0x64, 0x0081_0005),
        (0x04, 0x0000_0007),
    ];
    assert_eq!(machine.config.writes, expected);
    assert!(machine.writes.is_empty() && unit.fault_source().interrupts());
    unit.poll(&mut machine);
    let control = machine.writes.iter().rev().find(|(offset, _)| *offset == 0x18);
    assert_eq!(control, Some(&(0x18, 0x148d)));
}

#[test]
fn a_unit_whose_function_is_somebody_else_s_is_polled() {
    for machine in [&mut with_message(Owner::SomebodyElse), &mut FakeMachine::new()] {
        let mut unit = Unit::new(machine, &spec()).unwrap();
        unit.poll(machine);
        assert!(unit.fault_source().wants_polling() && machine.config.writes.is_empty());
        assert_eq!(machine.word(0x18), 0x1485);
    }
}

#[test]
fn an_interrupt_that_stays_when_it_is_acknowledged_is_acknowledged_again() {
    for (sticks, wants_polling) in [(0, false), (2, false), (1000, true)] {
        let mut machine = with_message(Owner::Nobody);
        let mut unit = Unit::new(&mut machine, &spec()).unwrap();
        unit.poll(&mut machine);
        machine.log([0x2020_0005_0000_0010, 0x1000]);
        machine.sticks = sticks;
        let mut faults = Vec::new();
        assert!(!unit.take_faults(&mut machine, &mut faults));
        assert_eq!((faults.len(), unit.fault_source().wants_polling()), (1, wants_polling));
        assert_eq!(machine.word(0x2020) & 2 != 0, wants_polling);
    }
}
