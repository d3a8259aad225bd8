//! Requests that follow each other faster than the hardware confirms.

use std::time::Duration;

use dma_types::Access;
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::platform::ConfigSpace;
use iommu_engine::unit::UnitState;
use iommu_sim::vtd::{Completion as Takes, Timing, VtdConfig};

use crate::rig::{Rig, edu};

fn slow_queue() -> VtdConfig {
    let timing = Timing { queue: Takes::After(1_000_000), ..Timing::default() };
    VtdConfig { timing, ..VtdConfig::default() }
}

#[test]
fn r1_a_device_is_not_said_to_be_in_a_domain_while_it_reaches_its_last() {
    let mut rig = Rig::with_unit(slow_queue());
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

#[test]
fn r2_the_tables_and_ids_of_a_domain_outlast_what_a_slow_unit_remembers() {
    let mut rig = Rig::with_unit(slow_queue());
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

#[test]
fn a_mapping_is_seen_also_where_an_unlinked_table_is_still_walked() {
    let mut rig = Rig::with_unit(slow_queue());
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

#[test]
fn a_long_line_is_no_stuck_unit() {
    let timing = Timing { registers: Takes::After(2_000_000), ..Timing::default() };
    let unit = VtdConfig { queued_invalidation: false, ..VtdConfig::default() };
    let mut rig = Rig::with_unit(unit);
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iovas: Vec<_> = (0..1000).map(|_| rig.map(domain, run, 4096, Access::ReadWrite)).collect();
    rig.platform.machine_mut().unit_mut(0).unwrap().set_timing(timing);
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

#[test]
fn what_was_known_to_be_absent_is_seen_once_it_is_there() {
    // In caching mode the unit remembers it; with a write buffer what was read stays until it is flushed.
    for (queued_invalidation, caching_mode, write_buffer) in [
        (true, true, false),
        (false, true, false),
        (true, false, true),
        (false, false, true),
        (true, true, true),
    ] {
        let unit =
            VtdConfig { caching_mode, write_buffer, queued_invalidation, ..VtdConfig::default() };
        let mut rig = Rig::with_unit(unit);
        // Where the first mapping will be: the device is known to be absent, and then the page.
        assert!(rig.read(0x1_0000_0000, 8).is_err());
        let domain = rig.attach(edu());
        assert!(rig.read(0x1_0000_0000, 8).is_err());
        let run = rig.run(4096);
        let iova = rig.map(domain, run, 4096, Access::ReadWrite);
        assert_eq!(iova.get(), 0x1_0000_0000);
        assert!(rig.read(iova.get(), 8).is_ok(), "{caching_mode} {write_buffer}");
        rig.check();
    }
}
