//! Devices that the policy leaves unconfined while nobody holds them.

use std::time::Duration;

use dma_types::{Access, Iova, PciAddress, PhysAddr};
use iommu_engine::completion::Progress;
use iommu_engine::domain::{Owner, Place};
use iommu_engine::engine::MapSpec;
use iommu_engine::engine::chain::ChainPiece;
use iommu_engine::engine::runs::PieceSpec;
use iommu_engine::platform::{BufferRuns, TableFrames};
use iommu_engine::policy::{Devices, Policy, Rule, Unopened};
use iommu_engine::unit::{UnitFailure, UnitState};
use iommu_sim::machine::EduConfig;
use iommu_sim::pace::{Completion as Takes, Health};

use iommud::platform::sim::SimPlatform;

use crate::rig::{Rig, blocked, edu, other, whole};
use crate::topology::traffic::at;
use crate::vendor::{Vendor, slow, slow_at_all, slow_down};

both! {
    what_is_not_confined_reaches_memory_at_its_own_addresses,
    what_came_and_went_leaves_the_unconfined_as_they_were,
    r8_what_is_not_confined_reaches_no_arena_and_no_units_registers,
    r2_a_map_is_done_only_when_the_unconfined_cannot_reach_its_memory,
    a_device_that_is_held_is_confined_and_afterwards_as_before,
    r1_firmwares_ranges_stay_where_they_are_in_what_is_not_confined,
    r2_no_map_is_done_while_the_unconfined_may_still_reach_its_memory,
    r1_memory_that_cannot_be_kept_from_the_unconfined_is_not_said_to_be,
    r2_what_a_failed_unit_never_forgot_is_not_given_out_and_all_else_is,
    a_unit_that_fails_as_it_starts_takes_nothing_from_others,
    r2_what_a_group_reached_until_it_lost_the_trust_is_waited_for,
}

/// One device that the policy leaves unconfined.
fn unconfined(device: PciAddress) -> Policy {
    let rule = Rule { unopened: Some(Unopened::Identity), ..Rule::new(Devices::At(device)) };
    Policy { rules: vec![rule], ..Policy::default() }
}

/// Memory of the simulated machine's that is nobody's.
const MEMORY: u64 = 0x7e00_0000;

fn identity() -> Policy {
    Policy { default: Unopened::Identity, ..Policy::default() }
}

fn what_came_and_went_leaves_the_unconfined_as_they_were(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.machine(), identity());
    let home = rig.engine.group(edu()).unwrap().home.unwrap();
    let pieces = |rig: &Rig| -> Vec<_> {
        let domain = rig.engine.domain(home).unwrap();
        let of_identity = domain.mappings().filter(|(_, it)| it.owner == Owner::Identity);
        of_identity.map(|(iova, it)| (iova, it.bytes)).collect()
    };
    let before = pieces(&rig);
    let mut runs: Vec<_> = (0..64).map(|_| rig.run(4096)).collect();
    let Rig { platform, engine } = &mut rig;
    engine.follow_arenas(platform);
    assert_ne!(pieces(&rig), before);
    // Each by itself, beside others that are there still.
    while !runs.is_empty() {
        rig.platform.free_run(runs.remove(runs.len() / 2));
        let Rig { platform, engine } = &mut rig;
        engine.follow_arenas(platform);
    }
    assert_eq!(pieces(&rig), before);
    rig.check();
}

fn what_is_not_confined_reaches_memory_at_its_own_addresses(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    assert!(blocked(&rig.write(MEMORY, &[1; 8])), "unless the policy says so");

    let mut rig = Rig::with_policy(vendor.machine(), identity());
    assert!(rig.engine.reaches_everything(edu()));
    rig.write(MEMORY, &[7; 8]).unwrap();
    assert_eq!(rig.read(MEMORY, 8).unwrap(), [7; 8]);
    assert!(blocked(&rig.write(0x8000_0000, &[1; 8])), "no memory is there");
    rig.check();
}

fn r8_what_is_not_confined_reaches_no_arena_and_no_units_registers(vendor: Vendor) {
    // Memory is said to be where the unit's registers are, as on a system that cannot tell.
    let mut platform = SimPlatform::with_manual_clock(vendor.machine()).unwrap();
    platform.tell_memory(&[(0, 0x20_0000_0000)]);
    let mut rig = Rig::start_with(platform, identity());
    rig.settle();
    let header = rig.platform.header_frame().get();
    assert!(blocked(&rig.write(header, &[1; 8])));
    let slot = &rig.engine.units()[0];
    let (base, bytes) = (slot.base.get(), slot.register_bytes);
    let home = rig.engine.domain(rig.engine.group(edu()).unwrap().home.unwrap()).unwrap();
    let reached = |at| home.translate(&rig.platform, Iova::new(at)).is_some();
    assert!(!reached(base) && !reached(base + bytes - 1));
    assert!(reached(base - 1) && reached(base + bytes));
    assert!(blocked(&rig.write(base, &[1; 8])));
    // A buffer is a part of an arena that has grown.
    let run = rig.run(4096);
    let place = rig.platform.segments(run)[0].start.get();
    rig.write(place, &[1; 8]).unwrap();
    let Rig { platform, engine } = &mut rig;
    engine.follow_arenas(platform);
    let kept = engine.kept_from_unconfined(platform, run);
    rig.finish(&kept);
    assert!(blocked(&rig.write(place, &[2; 8])));
    // Its neighbours are as they were.
    let home = rig.engine.group(edu()).unwrap().home.unwrap();
    let domain = rig.engine.domain(home).unwrap();
    let reached = |address| domain.translate(&rig.platform, Iova::new(address));
    assert_eq!(reached(place), None);
    for neighbour in [place - 4096, place + 4096] {
        assert_eq!(reached(neighbour).unwrap().phys.get(), neighbour);
    }
    rig.platform.free_run(run);
    let Rig { platform, engine } = &mut rig;
    engine.poll(platform);
    let domain = rig.engine.domain(home).unwrap();
    assert!(domain.translate(&rig.platform, Iova::new(place)).is_some());
    rig.check();
}

fn r2_a_map_is_done_only_when_the_unconfined_cannot_reach_its_memory(vendor: Vendor) {
    // One edu is held, and confined; the other is not.
    let mut rig = Rig::with_policy(vendor.machine().with_root_port(), unconfined(other()));
    assert!(rig.engine.reaches_everything(other()) && !rig.engine.reaches_everything(edu()));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let place = rig.platform.segments(run)[0].start.get();
    rig.platform.machine_mut().dma_write(other(), place, &[1; 8]).unwrap();
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    assert!(blocked(&rig.platform.machine_mut().dma_write(other(), place, &[2; 8])));
    rig.write(iova.get(), &[3; 8]).unwrap();
    rig.check();
}

fn a_device_that_is_held_is_confined_and_afterwards_as_before(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.machine(), identity());
    rig.write(MEMORY, &[1; 8]).unwrap();
    let domain = rig.attach(edu());
    assert!(!rig.engine.reaches_everything(edu()));
    assert!(blocked(&rig.write(MEMORY, &[2; 8])));
    let Rig { platform, engine } = &mut rig;
    let detached = engine.detach(platform, edu()).unwrap();
    engine.destroy_domain(platform, domain).unwrap();
    rig.finish(&detached);
    iommu_engine::platform::ConfigSpace::config_write(&mut rig.platform, edu(), 4, 6);
    rig.write(MEMORY, &[3; 8]).unwrap();
    rig.check();
}

fn r1_firmwares_ranges_stay_where_they_are_in_what_is_not_confined(vendor: Vendor) {
    let mut config = vendor.machine();
    let region = iommu_sim::machine::ReservedRegion {
        base: 0x7d00_0000,
        limit: 0x7d00_ffff,
        devices: vec![edu()],
        range: false,
        exclusion: false,
    };
    config.reserved.push(region);
    let mut rig = Rig::with_policy(config, identity());
    rig.write(0x7d00_0000, &[1; 8]).unwrap();
    rig.write(MEMORY, &[1; 8]).unwrap();
    let home = rig.engine.group(edu()).unwrap().home.unwrap();
    let mappings = rig.engine.domain(home).unwrap().mappings();
    let firmware: Vec<_> = mappings.filter(|(_, it)| it.owner == Owner::Firmware).collect();
    assert_eq!((firmware[0].0.get(), firmware[0].1.bytes), (0x7d00_0000, 0x1_0000));
    rig.check();
}

fn r2_no_map_is_done_while_the_unconfined_may_still_reach_its_memory(vendor: Vendor) {
    let config = slow(vendor.machine().with_root_port(), Takes::After(1_000_000));
    let mut rig = Rig::with_policy(config, unconfined(other()));
    let domain = rig.attach(edu());
    // So that the table is there, and the unit has nothing else to do.
    let run = rig.run(4096);
    rig.map(domain, run, 4096, Access::ReadWrite);
    let runs = [rig.run(4096), rig.run(4096)];
    let place = rig.platform.segments(runs[1])[0].start.get();
    rig.write_from(other(), place).unwrap();
    let Rig { platform, engine } = &mut rig;
    engine.map(platform, domain, &whole(runs[0], 4096)).unwrap();
    let (_, second) = engine.map(platform, domain, &whole(runs[1], 4096)).unwrap();
    rig.finish(&second);
    assert!(!rig.reaches(other(), place));
    rig.check();
}

fn r1_memory_that_cannot_be_kept_from_the_unconfined_is_not_said_to_be(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.machine().with_root_port(), unconfined(other()));
    // Large pages must be taken apart for it, for which there is no frame.
    rig.platform.limit_frames(0);
    let run = rig.run(3 << 20);
    let place = rig.platform.segments(run)[0].start.get();
    let reach = |rig: &Rig| rig.reaches(other(), place);
    let Rig { platform, engine } = &mut rig;
    engine.follow_arenas(platform);
    let kept = engine.kept_from_unconfined(platform, run);
    assert!(reach(&rig));
    assert_ne!(rig.engine.progress(&kept), Progress::Done);
    let Rig { platform, engine } = &mut rig;
    engine.follow_arenas(platform);
    let kept = engine.kept_from_unconfined(platform, run);
    assert_ne!(rig.engine.progress(&kept), Progress::Done);
    let remarks = rig.engine.remarks().len();
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.engine.remarks().len(), remarks, "once is enough");
    rig.platform.limit_frames(4096);
    let Rig { platform, engine } = &mut rig;
    engine.follow_arenas(platform);
    let kept = engine.kept_from_unconfined(platform, run);
    rig.finish(&kept);
    assert!(!reach(&rig));
    rig.check();
}

fn r2_what_a_failed_unit_never_forgot_is_not_given_out_and_all_else_is(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.two_units(), unconfined(other()));
    let domain = rig.attach(edu());
    let before = rig.run(8192);
    rig.map(domain, before, 8192, Access::ReadWrite);
    slow_down(&mut rig.platform.machine_mut(), Takes::After(50_000_000));
    let outstanding = rig.run(4096);
    let place = rig.platform.segments(outstanding)[0].start.get();
    rig.write_from(other(), place).unwrap();
    let Rig { platform, engine } = &mut rig;
    let (_, never) = engine.map(platform, domain, &whole(outstanding, 4096)).unwrap();
    platform.machine_mut().set_health(0, Health::AllOnes);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::Vanished));
    assert_eq!(rig.engine.progress(&never), Progress::Failed);
    slow_down(&mut rig.platform.machine_mut(), Takes::Immediate);
    // Of what it did confirm, each part can be mapped as often as one likes.
    for offset in [0, 4096] {
        let Rig { platform, engine } = &mut rig;
        let spec = MapSpec { offset, ..whole(before, 4096) };
        let (iova, mapped) = engine.map(platform, domain, &spec).unwrap();
        rig.finish(&mapped);
        rig.write(iova.get(), &[1; 8]).unwrap();
    }
    let Rig { platform, engine } = &mut rig;
    let piece = |run| ChainPiece { run, offset: 0, bytes: 4096, access: Access::Read, owner: 1 };
    let place = Place::Anywhere { align: 4096, first: Iova::new(0), limit: Iova::new(u64::MAX) };
    let (_, mapped) = engine.map_chain(platform, domain, place, &[piece(before)]).unwrap();
    rig.finish(&mapped);
    // What it did not, and what came later, can not.
    let later = rig.run(4096);
    for run in [outstanding, later] {
        let Rig { platform, engine } = &mut rig;
        let (_, mapped) = engine.map(platform, domain, &whole(run, 4096)).unwrap();
        assert_eq!(engine.progress(&mapped), Progress::Failed);
        let chain = [piece(before), piece(run)];
        let (_, mapped) = engine.map_chain(platform, domain, place, &chain).unwrap();
        assert_eq!(engine.progress(&mapped), Progress::Failed);
    }
    rig.check();
}

fn a_unit_that_fails_as_it_starts_takes_nothing_from_others(vendor: Vendor) {
    let config = slow_at_all(vendor.two_units(), Takes::After(50_000_000));
    let policy = Policy { reserve: 1 << 20, ..unconfined(other()) };
    let mut rig = Rig::start_with(SimPlatform::with_manual_clock(config).unwrap(), policy);
    rig.platform.machine_mut().set_health(0, Health::AllOnes);
    rig.settle();
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::Vanished));
    let domain = rig.attach(edu());
    // What was set aside before it started its devices were never to reach.
    let limit = PhysAddr::new(u64::MAX);
    let piece = PieceSpec { device: edu(), bytes: 8192, align: 4096, limit, reserve_first: true };
    let Rig { platform, engine } = &mut rig;
    let run = engine.alloc_contiguous_run(platform, &piece).unwrap();
    let iova = rig.map(domain, run, 8192, Access::ReadWrite);
    rig.write(iova.get(), &[1; 8]).unwrap();
    rig.check();
}

fn r2_what_a_group_reached_until_it_lost_the_trust_is_waited_for(vendor: Vendor) {
    let (trusted, newcomer) = (at("21:01.0"), at("21:05.0"));
    let rules = [trusted, at("21:02.0"), at("22:00.0")].map(|device| Rule {
        unopened: Some(Unopened::Identity),
        ..Rule::new(Devices::At(device))
    });
    let policy = Policy { rules: rules.to_vec(), ..Policy::default() };
    for fails in [false, true] {
        let mut rig = Rig::with_policy(vendor.machine().with_pci_bridge(), policy.clone());
        rig.drive(trusted);
        let domain = rig.attach(edu());
        let run = rig.run(4096);
        rig.map(domain, run, 4096, Access::ReadWrite);
        slow_down(&mut rig.platform.machine_mut(), Takes::After(50_000_000));
        let outstanding = rig.run(4096);
        let place = rig.platform.segments(outstanding)[0].start.get();
        rig.write_from(trusted, place).unwrap();
        // One that is to be confined joins the group.
        rig.platform.machine_mut().plug_edu(EduConfig::new(newcomer, 0xfec0_0000));
        let Rig { platform, engine } = &mut rig;
        engine.rescan(platform);
        let kept = engine.kept_from_unconfined(platform, outstanding);
        assert!(rig.reaches(trusted, place));
        assert_eq!(rig.engine.progress(&kept), Progress::Pending);
        let Rig { platform, engine } = &mut rig;
        let (_, mapped) = engine.map(platform, domain, &whole(outstanding, 4096)).unwrap();
        assert_eq!(engine.progress(&mapped), Progress::Pending);
        if fails {
            rig.platform.machine_mut().set_health(0, Health::AllOnes);
            rig.pass(Duration::from_millis(1));
            assert_eq!(rig.engine.progress(&mapped), Progress::Failed);
            // Nor is what it reached as well, and what is taken for buffers only now.
            let later = rig.run(4096);
            let Rig { platform, engine } = &mut rig;
            engine.follow_arenas(platform);
            let kept = engine.kept_from_unconfined(platform, later);
            assert_eq!(rig.engine.progress(&kept), Progress::Failed);
        } else {
            rig.finish(&mapped);
            assert!(!rig.reaches(trusted, place));
        }
        rig.check();
    }
}
