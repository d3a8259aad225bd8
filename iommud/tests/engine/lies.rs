//! Hardware that is stuck, gone or lies: whoever waits is told so in time, its unit is given up and its devices denied, and
//! the others live on (R1, R2, R5).

use std::time::Duration;

use dma_types::Access;
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::engine::{Confinement, Engine};
use iommu_engine::error::EngineError;
use iommu_engine::platform::ConfigSpace;
use iommu_engine::policy::{IgnoredUnit, Policy};
use iommu_engine::unit::{UnitFailure, UnitState};
use iommu_sim::MachineConfig;
use iommu_sim::machine::{Confirms, Lie};
use iommu_sim::pace::{Completion as Takes, Health};
use iommu_sim::vtd::VtdConfig;
use iommud::platform::sim::SimPlatform;

use crate::rig::{Rig, edu, other, whole};
use crate::vendor::{Vendor, slow_down};

both! {
    r5_a_unit_that_is_gone_while_nothing_is_asked_of_it_is_given_up_with_its_devices,
    r5_nothing_is_mapped_behind_a_unit_that_was_found_gone_between_polls,
    r5_what_is_behind_a_bridge_lives_on_when_the_bridges_unit_fails,
    r1_what_is_behind_a_unit_that_cannot_be_used_masters_no_bus,
    r5_a_unit_may_be_gone_from_any_read_of_its_registers_on_and_the_others_live,
    r5_configuration_space_may_be_gone_from_any_read_on,
    r2_a_confirmation_that_never_comes_is_not_waited_for_and_what_it_was_of_is_kept,
    r2_a_confirmation_that_nobody_asked_for_confirms_nothing,
    r2_a_confirmation_that_comes_twice_confirms_once,
    r2_one_that_comes_after_its_unit_was_given_up_confirms_nothing,
    r2_where_a_unit_says_that_its_queue_is_makes_no_room_in_it,
}

/// A machine with a unit for each device, both of which are up. Unit 0 has the second device.
fn rig(vendor: Vendor) -> Rig {
    Rig::new(vendor.two_units())
}

/// The device behind the unit that is well reaches what is mapped for it, old and new, and nothing else.
fn others_live(rig: &mut Rig) {
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.platform.config_write(edu(), 4, 6);
    assert_eq!(rig.write(iova.get(), &[1; 8]), Ok(()));
    rig.unmap(domain, iova, 4096);
    assert!(rig.write(iova.get(), &[1; 8]).is_err());
    let Rig { platform, engine } = rig;
    let completion = engine.detach(platform, edu()).unwrap();
    rig.finish(&completion);
    assert_eq!(rig.unit_state(1), UnitState::Running);
    rig.check();
}

/// Unit 0 has failed like this, and its device is denied.
fn is_given_up(rig: &mut Rig, failure: UnitFailure) {
    assert_eq!(rig.unit_state(0), UnitState::Failed(failure));
    assert_eq!(rig.platform.config_read(other(), 4) & 4, 0, "bus mastering is off");
    let Rig { platform, engine } = rig;
    let refused = engine.create_domain(platform, &[other()]);
    assert_eq!(refused, Err(EngineError::UnitNotWorking(other())));
    assert!(failure.to_string().starts_with("it"), "a clause: {failure}");
}

fn r5_a_unit_that_is_gone_while_nothing_is_asked_of_it_is_given_up_with_its_devices(
    vendor: Vendor,
) {
    let mut rig = rig(vendor);
    rig.attach(other());
    rig.platform.machine_mut().set_health(0, Health::AllOnes);
    // As when it is looked whether there are faults.
    rig.faults();
    is_given_up(&mut rig, UnitFailure::Vanished);
    others_live(&mut rig);
}

fn r5_nothing_is_mapped_behind_a_unit_that_was_found_gone_between_polls(vendor: Vendor) {
    let mut rig = rig(vendor);
    let domain = rig.attach(other());
    let run = rig.run(4096);
    rig.map(domain, run, 4096, Access::ReadWrite);
    rig.platform.machine_mut().set_health(0, Health::AllOnes);
    rig.faults();
    let Rig { platform, engine } = &mut rig;
    let refused = engine.map(platform, domain, &whole(run, 4096));
    assert_eq!(refused.map(drop), Err(EngineError::UnitFailed));
}

fn r5_what_is_behind_a_bridge_lives_on_when_the_bridges_unit_fails(vendor: Vendor) {
    let mut rig = rig(vendor);
    let domain = rig.attach(other());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.platform.config_write(other(), 4, 6);
    rig.platform.machine_mut().set_health(1, Health::AllOnes);
    rig.faults();
    assert_eq!(rig.unit_state(1), UnitState::Failed(UnitFailure::Vanished));
    assert_eq!(rig.platform.config_read(edu(), 4) & 4, 0, "bus mastering is off");
    assert_eq!(rig.platform.machine_mut().dma_write(other(), iova.get(), &[1; 8]), Ok(()));
    rig.unmap(domain, iova, 4096);
    assert!(rig.platform.machine_mut().dma_write(other(), iova.get(), &[1; 8]).is_err());
    rig.check();
}

fn r1_what_is_behind_a_unit_that_cannot_be_used_masters_no_bus(vendor: Vendor) {
    let started = |policy| {
        let platform = SimPlatform::with_manual_clock(vendor.two_units()).unwrap();
        platform.machine_mut().set_health(0, Health::AllOnes);
        let mut rig = Rig::start_with(platform, policy);
        rig.settle();
        assert!(rig.engine.units()[0].unit.is_err());
        rig
    };
    let mut rig = started(Policy::default());
    assert_eq!(rig.platform.config_read(other(), 4) & 4, 0, "bus mastering is off");
    assert_eq!(rig.engine.confinement(other()), Confinement::UnitUnusable);
    assert!(rig.platform.machine_mut().dma_write(other(), 0x2_0000_0000, &[1; 8]).is_err());
    others_live(&mut rig);
    // One that has come later, or was turned on by somebody, is looked at when functions are.
    rig.platform.config_write(other(), 4, 6);
    rig.engine.rescan(&mut rig.platform);
    assert_eq!(rig.platform.config_read(other(), 4) & 4, 0, "bus mastering is off");
    // What the administrator wants left alone is.
    let base = rig.engine.units()[0].base;
    let ignored_units = vec![IgnoredUnit { base, reason: "it hangs".into() }];
    let mut rig = started(Policy { ignored_units, ..Policy::default() });
    assert_eq!(rig.platform.config_read(other(), 4) & 4, 4, "as it was");
    assert_eq!(rig.engine.confinement(other()), Confinement::UnitNotUsed);
    others_live(&mut rig);
}

/// An AMD unit's device table takes a while to fill.
fn stride(vendor: Vendor) -> usize {
    if vendor == Vendor::Vtd { 1 } else { 5 }
}

/// Does everything that there is to do with the device behind unit 0, as far as that goes, and lets time pass for long
/// enough that nothing waits.
fn use_all(rig: &mut Rig) {
    for _ in 0..50 {
        rig.pass(Duration::from_millis(100));
    }
    let Rig { platform, engine } = rig;
    if let Ok(domain) = engine.create_domain(platform, &[other()]) {
        let mut asked = Vec::new();
        asked.extend(engine.attach(platform, other(), domain));
        let run = rig.run(8192);
        let Rig { platform, engine } = rig;
        if let Ok((iova, mapped)) = engine.map(platform, domain, &whole(run, 8192)) {
            asked.push(mapped);
            let _ = platform.machine_mut().dma_write(other(), iova.get(), &[1; 8]);
            let _ = platform.machine_mut().dma_write(other(), iova.get() + 8192, &[1; 8]);
            engine.take_events(platform);
            asked.extend(engine.unmap(platform, domain, iova, 8192));
        }
        asked.extend(engine.detach(platform, other()));
        let _ = engine.destroy_domain(platform, domain);
        for _ in 0..30 {
            rig.pass(Duration::from_millis(100));
            rig.faults();
        }
        for completion in asked {
            assert_ne!(rig.engine.progress(&completion), Progress::Pending, "waits for good");
        }
    }
    // What was unmapped nobody reaches by it, unless its unit was given up and may do anything.
    rig.check();
}

fn r5_a_unit_may_be_gone_from_any_read_of_its_registers_on_and_the_others_live(vendor: Vendor) {
    let mut given_up = 0;
    for after in (0..400).step_by(stride(vendor)) {
        let platform = SimPlatform::with_manual_clock(vendor.two_units()).unwrap();
        platform.machine_mut().lie(Lie::gone(0, after));
        let mut rig = Rig::start_on(platform);
        use_all(&mut rig);
        // One that was gone before anything was known of it is not used at all.
        let unit = rig.engine.units()[0].unit.as_ref();
        if unit.is_ok_and(|unit| unit.has_failed()) {
            given_up += 1;
            assert_eq!(
                rig.platform.config_read(other(), 4) & 4,
                0,
                "{after}: bus mastering is off"
            );
        }
        rig.platform.machine_mut().end_lies();
        others_live(&mut rig);
    }
    assert!(given_up > 10, "{given_up}");
}

fn r5_configuration_space_may_be_gone_from_any_read_on(vendor: Vendor) {
    for which in [None, Some(other()), Some("0000:00:00.3".parse().unwrap())] {
        for after in (0..2000).step_by(7 * stride(vendor)) {
            let mut platform = SimPlatform::with_manual_clock(vendor.two_units()).unwrap();
            platform.machine_mut().hide_config_after(which, after);
            let Ok(mut engine) = Engine::start(&mut platform, Policy::default()) else { continue };
            for _ in 0..30 {
                platform.advance_time(Duration::from_millis(100));
                engine.poll(&mut platform);
                engine.take_events(&mut platform);
            }
            assert!(engine.is_settled(), "{after}");
            engine.rescan(&mut platform);
            let usage = platform.usage();
            assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0), "{after}");
        }
    }
}

/// Unit 0 confirms like this; what is unmapped then is never confirmed, and never used again.
fn never_confirmed(vendor: Vendor, confirms: Confirms) {
    let mut rig = rig(vendor);
    let domain = rig.attach(other());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.platform.machine_mut().set_confirms(0, confirms);
    let Rig { platform, engine } = &mut rig;
    let unmapped = engine.unmap(platform, domain, iova, 4096).unwrap();
    for _ in 0..9 {
        rig.pass(Duration::from_millis(100));
        assert_eq!(rig.engine.progress(&unmapped), Progress::Pending);
    }
    rig.pass(Duration::from_millis(200));
    assert_eq!(rig.engine.progress(&unmapped), Progress::Failed);
    is_given_up(&mut rig, UnitFailure::InvalidationTimedOut);
    assert!(rig.engine.retired() > 0, "its addresses are never given out again");
    others_live(&mut rig);
}

fn r2_a_confirmation_that_never_comes_is_not_waited_for_and_what_it_was_of_is_kept(vendor: Vendor) {
    never_confirmed(vendor, Confirms::Never);
}

fn r2_a_confirmation_that_nobody_asked_for_confirms_nothing(vendor: Vendor) {
    // One that was asked for before confirms nothing new; one that was not yet, nothing at all.
    for off in [1, 1000, 1 << 31, u64::MAX, u64::MAX - 1000] {
        never_confirmed(vendor, Confirms::Off(off));
    }
}

fn r2_a_confirmation_that_comes_twice_confirms_once(vendor: Vendor) {
    let mut rig = rig(vendor);
    let domain = rig.attach(other());
    let run = rig.run(4096);
    rig.platform.machine_mut().set_confirms(0, Confirms::Twice);
    for _ in 0..20 {
        let Rig { platform, engine } = &mut rig;
        let (iova, _) = engine.map(platform, domain, &whole(run, 4096)).unwrap();
        let unmapped = engine.unmap(platform, domain, iova, 4096).unwrap();
        // What is written last is of before: it is not known yet that this is done.
        assert_ne!(rig.engine.progress(&unmapped), Progress::Failed);
    }
    rig.platform.machine_mut().set_confirms(0, Confirms::Rightly);
    let Rig { platform, engine } = &mut rig;
    let detached = engine.detach(platform, other()).unwrap();
    rig.finish(&detached);
    others_live(&mut rig);
}

fn r2_one_that_comes_after_its_unit_was_given_up_confirms_nothing(vendor: Vendor) {
    let mut rig = rig(vendor);
    let domain = rig.attach(other());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    slow_down(&mut rig.platform.machine_mut(), Takes::After(3_000_000_000));
    let Rig { platform, engine } = &mut rig;
    let unmapped = engine.unmap(platform, domain, iova, 4096).unwrap();
    for _ in 0..60 {
        rig.pass(Duration::from_millis(100));
    }
    assert_eq!(rig.engine.progress(&unmapped), Progress::Failed);
    is_given_up(&mut rig, UnitFailure::InvalidationTimedOut);
    assert!(rig.engine.retired() > 0);
    others_live(&mut rig);
}

/// The register that says how far a unit has read what it is asked for.
fn queue_head(vendor: Vendor) -> u64 {
    match vendor {
        Vendor::Vtd => 0x80,
        Vendor::Amdvi => 0x2000,
    }
}

fn r2_where_a_unit_says_that_its_queue_is_makes_no_room_in_it(vendor: Vendor) {
    // What was overwritten would never be forgotten, and what comes after it be confirmed all the same.
    for head in [0x400, 0x7e0, 0x800, 0xfe0, 0xff0, 0x1000, 0x10] {
        let mut rig = rig(vendor);
        let domain = rig.attach(other());
        let run = rig.run(4096);
        let iova = rig.map(domain, run, 4096, Access::ReadWrite);
        rig.platform.config_write(other(), 4, 6);
        assert_eq!(rig.platform.machine_mut().dma_write(other(), iova.get(), &[1; 8]), Ok(()));
        slow_down(&mut rig.platform.machine_mut(), Takes::After(100_000));
        let lie = Lie { register: Some(queue_head(vendor)), clear: u64::MAX, ..Lie::gone(0, 0) };
        rig.platform.machine_mut().lie(Lie { set: head, ..lie });
        let Rig { platform, engine } = &mut rig;
        let mut asked = vec![engine.detach(platform, other()).unwrap()];
        // More than there is room for, of other domains.
        for _ in 0..150 {
            let domain = engine.create_domain(platform, &[other()]).unwrap();
            asked.push(engine.attach(platform, other(), domain).unwrap());
            asked.push(engine.detach(platform, other()).unwrap());
        }
        for completion in &asked {
            rig.finish(completion);
            rig.platform.config_write(other(), 4, 6);
            let reached = rig.platform.machine_mut().dma_write(other(), iova.get(), &[2; 8]);
            assert!(reached.is_err(), "head {head:#x}: what was to be forgotten is reached");
        }
        assert_eq!(rig.unit_state(0), UnitState::Running, "it has done all it was asked");
        others_live(&mut rig);
    }
}

#[test]
fn r1_a_status_that_is_made_up_turns_no_translation_off() {
    let unit = VtdConfig { write_buffer: true, ..VtdConfig::default() };
    for (clear, set) in [(u64::MAX, 0), (1 << 63, 0), (0, 0x13 << 55)] {
        let mut rig = Rig::new(MachineConfig::with_unit(unit.clone()));
        let domain = rig.attach(edu());
        // GSTS_REG is the upper half.
        rig.platform.machine_mut().lie(Lie {
            register: Some(STATUS),
            clear,
            set,
            ..Lie::gone(0, 0)
        });
        let run = rig.run(4096);
        let Rig { platform, engine } = &mut rig;
        let mapped = engine.map(platform, domain, &whole(run, 4096)).map(drop);
        assert_eq!(mapped, Ok(()));
        assert!(rig.platform.machine().is_translating(0), "{clear:#x} {set:#x}");
        assert!(rig.write(0x4000_0000, &[1; 8]).is_err(), "nothing is mapped there");
        rig.check();
    }
}

/// A machine whose unit 0 is told by registers what to forget, and to flush its write buffers before.
fn by_registers() -> Rig {
    let mut config = Vendor::Vtd.two_units();
    let unit = &mut config.units[0].vtd;
    (unit.queued_invalidation, unit.write_buffer) = (false, true);
    Rig::new(config)
}

/// Unit 0 is asked for all that there is: to flush its write buffers, and to forget a context and translations.
fn detached(rig: &mut Rig) -> Completion {
    let Rig { platform, engine } = rig;
    engine.detach(platform, other()).unwrap()
}

/// Where GSTS, CCMD, FSTS and IOTLB are.
const STATUS: u64 = 0x18;
const CONTEXT: u64 = 0x28;
const FAULTS: u64 = 0x30;
const IOTLB: u64 = 0xf8;

#[test]
fn r5_a_unit_that_is_gone_while_it_is_at_what_registers_ask_for_is_given_up_at_once() {
    for at in [STATUS, CONTEXT, IOTLB] {
        let mut rig = by_registers();
        rig.attach(other());
        // It does not get further than that.
        let never = Lie { register: Some(at), set: 1 << 63 | 1 << 59, ..Lie::gone(0, 0) };
        rig.platform.machine_mut().lie(never);
        let detached = detached(&mut rig);
        rig.pass(Duration::from_millis(1));
        assert_eq!(rig.engine.progress(&detached), Progress::Pending, "{at:#x}");
        rig.platform.machine_mut().set_health(0, Health::AllOnes);
        rig.pass(Duration::from_millis(1));
        assert_eq!(rig.engine.progress(&detached), Progress::Failed, "{at:#x}");
        is_given_up(&mut rig, UnitFailure::Vanished);
        others_live(&mut rig);
    }
}

#[test]
fn r2_a_register_that_reads_all_ones_confirms_nothing_and_its_unit_is_given_up_in_time() {
    for at in [STATUS, CONTEXT, IOTLB] {
        let mut rig = by_registers();
        rig.attach(other());
        rig.platform.machine_mut().lie(Lie { register: Some(at), ..Lie::gone(0, 0) });
        let detached = detached(&mut rig);
        // As far as it gets.
        rig.pass(Duration::ZERO);
        for _ in 0..9 {
            rig.pass(Duration::from_millis(100));
            assert_eq!(rig.engine.progress(&detached), Progress::Pending, "{at:#x}");
        }
        rig.pass(Duration::from_millis(200));
        assert_eq!(rig.engine.progress(&detached), Progress::Failed, "{at:#x}");
        is_given_up(&mut rig, UnitFailure::InvalidationTimedOut);
        others_live(&mut rig);
    }
}

#[test]
fn r2_what_a_unit_refuses_to_forget_by_registers_is_not_taken_for_forgotten() {
    // CAIG and IAIG.
    for (at, answer) in [(CONTEXT, 3 << 59), (IOTLB, 3 << 57)] {
        let mut rig = by_registers();
        rig.attach(other());
        let refuses = Lie { register: Some(at), clear: answer, set: 0, ..Lie::gone(0, 0) };
        rig.platform.machine_mut().lie(refuses);
        let detached = detached(&mut rig);
        rig.pass(Duration::from_millis(1));
        assert_eq!(rig.engine.progress(&detached), Progress::Failed, "{at:#x}");
        is_given_up(&mut rig, UnitFailure::InvalidationRefused);
        others_live(&mut rig);
    }
}

#[test]
fn r5_a_queue_that_is_said_to_have_stopped_is_given_up_at_once() {
    // IQE, ITE, and no unit.
    for (status, failure) in [
        (0x10, UnitFailure::QueueStopped),
        (0x40, UnitFailure::QueueStopped),
        (u64::from(u32::MAX), UnitFailure::Vanished),
    ] {
        let mut rig = rig(Vendor::Vtd);
        rig.attach(other());
        slow_down(&mut rig.platform.machine_mut(), Takes::After(50_000_000));
        let detached = detached(&mut rig);
        rig.pass(Duration::from_millis(1));
        assert_eq!(rig.engine.progress(&detached), Progress::Pending);
        // FSTS is the upper half.
        let set = status << 32;
        rig.platform.machine_mut().lie(Lie { register: Some(FAULTS), set, ..Lie::gone(0, 0) });
        rig.pass(Duration::from_millis(1));
        assert_eq!(rig.engine.progress(&detached), Progress::Failed, "{status:#x}");
        is_given_up(&mut rig, failure);
        others_live(&mut rig);
    }
}
