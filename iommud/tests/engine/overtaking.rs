//! Requests that follow each other faster than the hardware confirms.

use std::time::Duration;

use dma_types::Access;
use iommu_engine::completion::{Completion, Progress, UnitId};
use iommu_engine::engine::MapSpec;
use iommu_engine::platform::{BufferRuns, ConfigSpace};
use iommu_engine::unit::UnitState;
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::{AmdviConfig, AmdviTiming};
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::VtdConfig;

use crate::rig::{Rig, edu, other, whole};
use crate::vendor::{Vendor, slow, slow_down};

both! {
    r2_nothing_of_a_domain_is_found_by_the_next_one_with_its_id,
    r1_a_device_is_not_said_to_be_in_a_domain_while_it_reaches_its_last,
    r2_the_tables_and_ids_of_a_domain_outlast_what_a_slow_unit_remembers,
    a_mapping_is_seen_also_where_an_unlinked_table_is_still_walked,
    a_long_line_is_no_stuck_unit,
    what_was_known_to_be_absent_is_seen_once_it_is_there,
    a_mapping_is_seen_also_where_another_has_just_made_the_table,
    a_mapping_is_seen_also_where_another_has_just_made_the_table_grow,
}

fn slow_machine(vendor: Vendor) -> MachineConfig {
    slow(vendor.machine(), Takes::After(1_000_000))
}

fn r1_a_device_is_not_said_to_be_in_a_domain_while_it_reaches_its_last(vendor: Vendor) {
    let mut rig = Rig::new(slow_machine(vendor));
    let first = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(first, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), &[1; 8]).unwrap();
    let Rig { platform, engine } = &mut rig;
    let detached = engine.detach(platform, edu()).unwrap();
    assert_eq!(engine.progress(&detached), Progress::Pending);
    engine.destroy_domain(platform, first).unwrap();
    let second = engine.create_domain(platform, &[edu()]).unwrap();
    let attached = engine.attach(platform, edu(), second).unwrap();
    platform.config_write(edu(), 4, 6);
    assert_eq!(engine.progress(&attached), Progress::Pending);
    assert_eq!(rig.write(iova.get(), &[2; 8]), Ok(()), "the unit has not forgotten yet");
    rig.finish(&attached);
    assert!(rig.write(iova.get(), &[3; 8]).is_err());
    rig.check();
}

fn r2_nothing_of_a_domain_is_found_by_the_next_one_with_its_id(vendor: Vendor) {
    for machine in vendor.interfaces() {
        let mut rig = Rig::new(machine.with_root_port());
        let domain = rig.attach(edu());
        let (run, large) = (rig.run(4096), rig.run(2 << 20));
        let iova = rig.map(domain, run, 4096, Access::ReadWrite).get();
        let far = rig.map(domain, large, 2 << 20, Access::ReadWrite).get();
        assert!(rig.reaches(edu(), iova) && rig.reaches(edu(), far));
        let id = rig.engine.domain(domain).unwrap().id_at(UnitId(0));
        // Gone with everything in it; its memory is somebody else's.
        let detached = rig.engine.detach(&mut rig.platform, edu()).unwrap();
        rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
        rig.finish(&detached);
        rig.pass(Duration::ZERO);
        rig.platform.free_run(run);
        rig.platform.free_run(large);
        let next = rig.attach(other());
        assert_eq!(rig.engine.domain(next).unwrap().id_at(UnitId(0)), id);
        for address in [iova, iova + 4096, far, far + (1 << 20)] {
            assert!(!rig.reaches(other(), address));
        }
        let page = rig.page(next);
        assert!(rig.reaches(other(), page));
        rig.check();
    }
}

fn r2_the_tables_and_ids_of_a_domain_outlast_what_a_slow_unit_remembers(vendor: Vendor) {
    let mut rig = Rig::new(slow_machine(vendor));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), &[1; 8]).unwrap();
    let before = rig.platform.usage().live_frames;
    let ids = |rig: &Rig| rig.engine.units()[0].unit.as_ref().unwrap().domain_ids_in_use();
    let Rig { platform, engine } = &mut rig;
    let detached = engine.detach(platform, edu()).unwrap();
    engine.destroy_domain(platform, domain).unwrap();
    assert_eq!((rig.platform.usage().live_frames, ids(&rig)), (before, 1));
    rig.platform.config_write(edu(), 4, 6);
    rig.write(iova.get() + 8, &[2; 8]).unwrap();
    rig.finish(&detached);
    rig.pass(Duration::ZERO);
    assert_eq!(ids(&rig), 0);
    assert!(rig.platform.usage().live_frames < before);
    rig.check();
}

fn a_mapping_is_seen_also_where_an_unlinked_table_is_still_walked(vendor: Vendor) {
    let mut rig = Rig::new(slow_machine(vendor));
    let domain = rig.attach(edu());
    let (run, other) = (rig.run(4096), rig.run(4096));
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), &[1; 8]).unwrap();
    let Rig { platform, engine } = &mut rig;
    engine.unmap(platform, domain, iova, 4096).unwrap();
    let next = rig.map(domain, other, 4096, Access::ReadWrite);
    assert_eq!(rig.write(next.get(), &[1; 8]), Ok(()), "{next}, after {iova}");
    rig.check();
}

fn a_long_line_is_no_stuck_unit(vendor: Vendor) {
    let mut rig = Rig::new(match vendor {
        Vendor::Vtd => MachineConfig::with_unit(VtdConfig {
            queued_invalidation: false,
            ..VtdConfig::default()
        }),
        Vendor::Amdvi => vendor.machine(),
    });
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iovas: Vec<_> = (0..1000).map(|_| rig.map(domain, run, 4096, Access::ReadWrite)).collect();
    match vendor {
        Vendor::Vtd => slow_down(&mut rig.platform.machine_mut(), Takes::After(2_000_000)),
        // A command for every look, two for every unmap, and the unit is looked at each millisecond.
        Vendor::Amdvi => {
            let timing = AmdviTiming { looks_per_command: 3, ..AmdviTiming::default() };
            rig.platform.machine_mut().amdvi_mut(0).unwrap().set_timing(timing);
        }
    }
    let mut all = Completion::none();
    for iova in &iovas {
        let Rig { platform, engine } = &mut rig;
        all.join(&engine.unmap(platform, domain, *iova, 4096).unwrap());
    }
    for _ in 0..3000 {
        rig.pass(Duration::from_millis(1));
    }
    assert_eq!(rig.unit_state(0), UnitState::Running);
    assert_eq!(rig.engine.progress(&all), Progress::Done);
    rig.check();
}

fn what_was_known_to_be_absent_is_seen_once_it_is_there(vendor: Vendor) {
    for machine in forgetful_of_nothing(vendor) {
        let mut rig = Rig::new(machine.clone());
        // Where the first mapping will be: the device is known to be absent, and then the page.
        assert!(rig.read(0x1_0000_0000, 8).is_err());
        let domain = rig.attach(edu());
        assert!(rig.read(0x1_0000_0000, 8).is_err());
        let run = rig.run(4096);
        let iova = rig.map(domain, run, 4096, Access::ReadWrite);
        assert_eq!(iova.get(), 0x1_0000_0000);
        assert!(rig.read(iova.get(), 8).is_ok(), "{machine:?}");
        rig.check();
    }
}

/// Machines whose units keep what was not present: in caching mode (NpCache) they remember it; with a write buffer
/// what was read stays until it is flushed.
fn forgetful_of_nothing(vendor: Vendor) -> Vec<MachineConfig> {
    let vtd = |(queued_invalidation, caching_mode, write_buffer)| {
        let base = VtdConfig::default();
        let unit = VtdConfig { caching_mode, write_buffer, queued_invalidation, ..base };
        MachineConfig::with_unit(unit)
    };
    let amdvi = |(extended_features, eager)| {
        let base = AmdviConfig::default();
        let unit = AmdviConfig { np_cache: true, extended_features, eager, ..base };
        MachineConfig::with_amdvi(unit)
    };
    match vendor {
        Vendor::Vtd => [
            (true, true, false),
            (false, true, false),
            (true, false, true),
            (false, false, true),
            (true, true, true),
        ]
        .map(vtd)
        .into(),
        Vendor::Amdvi => {
            [(true, false), (true, true), (false, false), (false, true)].map(amdvi).into()
        }
    }
}

fn a_mapping_is_seen_also_where_another_has_just_made_the_table(vendor: Vendor) {
    let mut rig = Rig::new(slow(vendor.machine(), Takes::After(1_000_000)));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), &[1; 8]).unwrap();
    let Rig { platform, engine } = &mut rig;
    // Its table with it, which the unit goes on walking for a while.
    engine.unmap(platform, domain, iova, 4096).unwrap();
    engine.map(platform, domain, &whole(run, 4096)).unwrap();
    let (second, seen) = engine.map(platform, domain, &whole(run, 4096)).unwrap();
    rig.finish(&seen);
    assert_eq!(rig.write(second.get(), &[1; 8]), Ok(()));
    rig.check();
}

fn a_mapping_is_seen_also_where_another_has_just_made_the_table_grow(vendor: Vendor) {
    let mut rig = Rig::new(slow(vendor.machine(), Takes::After(1_000_000)));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    assert!(rig.write(0x1_0000_0000, &[1; 8]).is_err());
    // So that the root is not empty when it grows.
    rig.map(domain, run, 4096, Access::ReadWrite);
    assert!(rig.write(0x80_0000_0000, &[1; 8]).is_err());
    let far = MapSpec { align: 1 << 39, ..whole(run, 4096) };
    let Rig { platform, engine } = &mut rig;
    engine.map(platform, domain, &far).unwrap();
    let (second, seen) = engine.map(platform, domain, &far).unwrap();
    rig.finish(&seen);
    assert_eq!(rig.write(second.get(), &[1; 8]), Ok(()), "{second}");
    rig.check();
}
