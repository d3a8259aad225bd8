//! Mappings beyond what a domain's table translates: its root grows under its devices (AMD-Vi), or reached as far
//! from the start (VT-d).

use std::sync::atomic::Ordering;
use std::time::Duration;

use dma_types::{Access, Iova, PciAddress};
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::MapSpec;
use iommu_engine::error::EngineError;
use iommu_engine::ledger::Ledger;
use iommu_engine::platform::{BufferRuns, TableFrames};
use iommu_engine::records::DomainRecord;
use iommu_engine::table::MapError;
use iommu_engine::unit::{UnitFailure, UnitState};
use iommu_sim::Blocked;
use iommu_sim::pace::Completion as Takes;

use crate::rig::{Rig, blocked, edu, other};
use crate::vendor::{Vendor, slow_down};

both! {
    what_was_reached_is_reached_all_the_while_and_what_is_new_from_the_completion_on,
    a_domain_without_mappings_grows_too,
    each_function_of_a_group_follows,
    devices_behind_two_units_follow_when_both_have_confirmed,
    who_is_attached_afterwards_is_attached_to_the_grown_table,
    r2_what_was_known_to_be_absent_up_there_is_seen,
    r4_a_device_that_leaves_while_the_table_grows_reaches_nothing,
    r7_where_there_is_no_memory_to_grow_nothing_has_changed,
    r1_a_reserved_range_high_up_is_reached_from_the_start,
}

/// Beyond the 39 bits that three levels translate.
const HIGH: u64 = 1 << 40;

/// Slow enough to be seen, for a unit.
const SLOWLY: Takes = Takes::After(1_000_000);

/// Begins to map a page beyond what three levels translate.
fn map_high(rig: &mut Rig, domain: DomainKey) -> (u64, Completion) {
    let (iova, completion) = try_map_high(rig, domain).unwrap();
    assert!(iova.get() >= HIGH);
    (iova.get(), completion)
}

fn try_map_high(rig: &mut Rig, domain: DomainKey) -> Result<(Iova, Completion), EngineError> {
    let run = rig.run(4096);
    let spec = MapSpec {
        run,
        offset: 0,
        bytes: 4096,
        access: Access::ReadWrite,
        align: HIGH,
        first: Iova::new(0),
        limit: Iova::new(u64::MAX),
        owner: 1,
    };
    let mapped = rig.engine.map(&mut rig.platform, domain, &spec);
    if mapped.is_err() {
        rig.platform.free_run(run);
    }
    mapped
}

/// How many levels a domain's table has, which starts with as few as its units walk.
fn levels(rig: &Rig, domain: DomainKey) -> u8 {
    rig.engine.domain(domain).unwrap().levels()
}

/// The first word of edu's entry in the device table.
fn entry(rig: &Rig) -> u64 {
    let table = rig.engine.units()[0].unit.as_ref().unwrap().root();
    rig.platform.table(table).unwrap()[0x40].load(Ordering::Relaxed)
}

fn what_was_reached_is_reached_all_the_while_and_what_is_new_from_the_completion_on(
    vendor: Vendor,
) {
    for machine in vendor.interfaces() {
        let mut rig = Rig::new(machine.with_root_port());
        let domain = rig.attach(edu());
        rig.attach_to(other(), domain);
        let (low, unused) = (rig.page(domain), rig.page(domain));
        // One has its entry and a page cached, the other nothing.
        assert!(rig.reaches(edu(), low));
        let first = levels(&rig, domain);
        slow_down(&mut rig.platform.machine_mut(), SLOWLY);
        let (high, grown) = map_high(&mut rig, domain);
        for _ in 0..1000 {
            for device in [edu(), other()] {
                assert!(rig.reaches(device, low) && rig.reaches(device, unused));
            }
            if rig.engine.progress(&grown) == Progress::Done {
                break;
            }
            rig.pass(Duration::from_micros(100));
        }
        assert_eq!(rig.engine.progress(&grown), Progress::Done);
        assert_eq!(
            (first, levels(&rig, domain)),
            match vendor {
                Vendor::Vtd => (4, 4),
                Vendor::Amdvi => (3, 4),
            }
        );
        for device in [edu(), other()] {
            assert!([low, unused, high].iter().all(|iova| rig.reaches(device, *iova)));
        }
        // What is unmapped of the old table is gone, too, by the new root.
        rig.unmap(domain, Iova::new(low), 4096);
        rig.unmap(domain, Iova::new(high), 4096);
        for device in [edu(), other()] {
            assert!(!rig.reaches(device, low) && !rig.reaches(device, high));
            assert!(rig.reaches(device, unused));
        }
        rig.check();
    }
}

#[test]
fn the_simulator_goes_by_the_old_root_until_the_devices_entry_is_invalidated() {
    // A test that could not fail would prove nothing: here the unit is not told that the entry has changed.
    let mut rig = Rig::new(Vendor::Amdvi.machine());
    let domain = rig.attach(edu());
    let low = rig.page(domain);
    assert!(rig.reaches(edu(), low));
    let before = entry(&rig);
    slow_down(&mut rig.platform.machine_mut(), Takes::Never);
    let (high, grown) = map_high(&mut rig, domain);
    // Mode, bits 11:9, has gone from 3 to 4; IR, IW, TV and V are as they were.
    assert_eq!((before >> 9 & 7, entry(&rig) >> 9 & 7), (3, 4));
    assert_eq!(before & 0xfff0_0000_0000_01ff, entry(&rig) & 0xfff0_0000_0000_01ff);
    assert!(!rig.reaches(edu(), high), "the entry that the unit has cached is the old one");
    assert_eq!(rig.engine.progress(&grown), Progress::Pending);
    slow_down(&mut rig.platform.machine_mut(), Takes::Immediate);
    rig.finish(&grown);
    assert!(rig.reaches(edu(), high) && rig.reaches(edu(), low));
    rig.check();
}

fn a_domain_without_mappings_grows_too(vendor: Vendor) {
    for machine in vendor.interfaces() {
        let mut rig = Rig::new(machine);
        let before = rig.platform.usage();
        let domain = rig.attach(edu());
        // The old root is cached, and no part of the new table.
        assert!(blocked(&rig.write(0x1000, &[1; 8])));
        slow_down(&mut rig.platform.machine_mut(), SLOWLY);
        let (high, grown) = map_high(&mut rig, domain);
        let _ = rig.write(high, &[1; 8]);
        rig.finish(&grown);
        assert!(rig.reaches(edu(), high));
        rig.unmap(domain, Iova::new(high), 4096);
        assert!(!rig.reaches(edu(), high));
        let detached = rig.engine.detach(&mut rig.platform, edu()).unwrap();
        rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
        rig.finish(&detached);
        rig.pass(Duration::ZERO);
        let left = rig.platform.usage().live_frames - before.live_frames;
        assert_eq!(left, vendor.frames_per_bus());
        rig.check();
    }
}

fn each_function_of_a_group_follows(vendor: Vendor) {
    let [first, second]: [PciAddress; 2] =
        ["0000:00:06.0", "0000:00:06.1"].map(|it| it.parse().unwrap());
    for machine in vendor.interfaces() {
        let mut rig = Rig::new(machine.with_two_functions(None));
        assert_eq!(rig.engine.group(first).unwrap().spec.requesters.len(), 2);
        let domain = rig.attach(first);
        let low = rig.page(domain);
        for device in [first, second] {
            assert!(rig.reaches(device, low));
        }
        slow_down(&mut rig.platform.machine_mut(), SLOWLY);
        let (high, grown) = map_high(&mut rig, domain);
        // Who joins now is not said to be there before the group has followed.
        let joined = rig.engine.attach(&mut rig.platform, second, domain).unwrap();
        assert_eq!(rig.engine.progress(&joined), rig.engine.progress(&grown));
        rig.finish(&joined);
        assert_eq!(rig.engine.progress(&grown), Progress::Done);
        for device in [first, second] {
            assert!(rig.reaches(device, low) && rig.reaches(device, high), "{device}");
        }
        rig.check();
    }
}

fn devices_behind_two_units_follow_when_both_have_confirmed(vendor: Vendor) {
    let mut rig = Rig::new(vendor.two_units());
    let Rig { platform, engine } = &mut rig;
    let domain = engine.create_domain(platform, &[edu(), other()]).unwrap();
    rig.attach_to(edu(), domain);
    rig.attach_to(other(), domain);
    let low = rig.page(domain);
    assert!(rig.reaches(edu(), low) && rig.reaches(other(), low));
    // The unit of the other is slow.
    slow_down(&mut rig.platform.machine_mut(), SLOWLY);
    let (high, grown) = map_high(&mut rig, domain);
    assert!(rig.reaches(edu(), high));
    if vendor == Vendor::Amdvi {
        assert_eq!(rig.engine.progress(&grown), Progress::Pending);
        assert!(!rig.reaches(other(), high));
    }
    assert!(rig.reaches(other(), low));
    rig.finish(&grown);
    assert!(rig.reaches(other(), low) && rig.reaches(other(), high));
    rig.check();
}

fn who_is_attached_afterwards_is_attached_to_the_grown_table(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine().with_root_port());
    let domain = rig.attach(edu());
    let low = rig.page(domain);
    slow_down(&mut rig.platform.machine_mut(), SLOWLY);
    let (high, _) = map_high(&mut rig, domain);
    rig.attach_to(other(), domain);
    assert!(rig.reaches(other(), low) && rig.reaches(other(), high));
    // What a restarted daemon would find is the table as it is now.
    let records = Ledger::records::<DomainRecord>(&rig.platform).unwrap();
    let it = rig.engine.domain(domain).unwrap();
    assert_eq!((records[0].1.root, records[0].1.levels), (it.root(), it.levels()));
    rig.check();
}

fn r2_what_was_known_to_be_absent_up_there_is_seen(vendor: Vendor) {
    let mut rig = Rig::new(vendor.caching());
    let domain = rig.attach(edu());
    let low = rig.page(domain);
    for address in [HIGH, low + (1 << 39), low + (1 << 30), low + (1 << 21)] {
        assert!(!rig.reaches(edu(), address));
    }
    let (high, grown) = map_high(&mut rig, domain);
    rig.finish(&grown);
    assert!(rig.reaches(edu(), high) && rig.reaches(edu(), low));
    let (next, grown) = map_high(&mut rig, domain);
    rig.finish(&grown);
    assert!(rig.reaches(edu(), next));
    rig.check();
}

fn r4_a_device_that_leaves_while_the_table_grows_reaches_nothing(vendor: Vendor) {
    for machine in vendor.interfaces() {
        let mut rig = Rig::new(machine);
        let before = rig.platform.usage();
        let domain = rig.attach(edu());
        let low = rig.page(domain);
        assert!(rig.reaches(edu(), low));
        slow_down(&mut rig.platform.machine_mut(), SLOWLY);
        let (high, _) = map_high(&mut rig, domain);
        let detached = rig.engine.detach(&mut rig.platform, edu()).unwrap();
        rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
        rig.drive(edu());
        while rig.engine.progress(&detached) == Progress::Pending {
            // Whatever it still reaches was its own, and is nobody else's yet.
            let _ = (rig.read(low, 8), rig.read(high, 8));
            rig.pass(Duration::from_micros(100));
        }
        assert!(!rig.reaches(edu(), low) && !rig.reaches(edu(), high));
        let left = rig.platform.usage().live_frames - before.live_frames;
        assert_eq!(left, vendor.frames_per_bus());
        rig.check();
    }
}

fn r7_where_there_is_no_memory_to_grow_nothing_has_changed(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let low = rig.page(domain);
    let usage = rig.platform.usage();
    let shape = |rig: &Rig| {
        let domain = rig.engine.domain(domain).unwrap();
        (domain.root(), domain.levels(), domain.mappings().count())
    };
    let before = shape(&rig);
    // The new root, if it grows, and a table of each level below.
    let mut needed = 0;
    let (high, grown) = loop {
        rig.platform.limit_frames(usage.live_frames + needed);
        match try_map_high(&mut rig, domain) {
            Ok(mapped) => break mapped,
            Err(error) => assert_eq!(error, EngineError::Map(MapError::OutOfFrames)),
        }
        assert_eq!((shape(&rig), rig.platform.usage()), (before, usage));
        assert!(rig.reaches(edu(), low) && !rig.reaches(edu(), HIGH));
        needed += 1;
    };
    assert_eq!(
        needed,
        match vendor {
            Vendor::Vtd => 3,
            Vendor::Amdvi => 4,
        }
    );
    rig.finish(&grown);
    assert!(rig.reaches(edu(), high.get()) && rig.reaches(edu(), low));
    rig.check();
}

fn r1_a_reserved_range_high_up_is_reached_from_the_start(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine().with_reserved(HIGH, HIGH + 0x3fff, &[edu()]));
    // The unit lets through what there is no memory for so high up.
    let passes = |rig: &mut Rig| {
        [HIGH, HIGH + 0x3ff8].map(|at| rig.write(at, &[1; 8])) == [Err(Blocked::NoMemory); 2]
            && blocked(&rig.write(HIGH + 0x4000, &[1; 8]))
    };
    assert!(passes(&mut rig));
    let domain = rig.attach(edu());
    let low = rig.page(domain);
    assert!(passes(&mut rig) && rig.reaches(edu(), low));
    rig.detach(edu());
    assert!(passes(&mut rig) && !rig.reaches(edu(), low));
    rig.check();
}

#[test]
fn r5_a_unit_that_does_not_take_the_new_root_is_given_up_and_what_was_reached_stays() {
    let mut rig = Rig::new(Vendor::Amdvi.machine());
    let domain = rig.attach(edu());
    let low = rig.page(domain);
    assert!(rig.reaches(edu(), low));
    slow_down(&mut rig.platform.machine_mut(), Takes::Never);
    let (high, grown) = map_high(&mut rig, domain);
    rig.pass(Duration::from_millis(1100));
    assert_eq!(rig.engine.progress(&grown), Progress::Failed);
    assert_eq!(rig.unit_state(0), UnitState::Failed(UnitFailure::InvalidationTimedOut));
    assert_eq!(rig.read(low, 8), Err(Blocked::NotMaster));
    rig.drive(edu());
    assert!(rig.reaches(edu(), low) && !rig.reaches(edu(), high));
    rig.check();
}
