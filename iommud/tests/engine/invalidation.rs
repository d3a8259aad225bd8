//! What hardware remembers, and when what it remembers may be used again (R2).

use std::time::Duration;

use dma_types::{Access, Iova};
use iommu_engine::completion::Progress;
use iommu_engine::engine::MapSpec;
use iommu_engine::error::EngineError;
use iommu_engine::platform::BufferRuns;
use iommu_engine::unit::{UnitFailure, UnitState};
use iommu_sim::pace::Completion as Takes;

use crate::rig::{Rig, blocked, edu, other, retired};
use crate::vendor::{Vendor, forgotten, slow, slow_down};

both! {
    the_simulator_keeps_a_stale_translation_when_nobody_invalidates,
    r2_after_an_unmap_no_access_gets_through,
    r2_addresses_tables_and_memory_wait_for_a_slow_unit,
    r2_a_unit_that_never_confirms_is_given_up_and_nothing_of_it_is_reused,
    a_stuck_unit_delays_nobody_elses_device,
    more_invalidations_than_the_queue_holds_are_all_done,
    a_domain_is_cheaper_than_a_thousand_pages,
}

fn the_simulator_keeps_a_stale_translation_when_nobody_invalidates(vendor: Vendor) {
    // A test that could not fail would prove nothing: here the invalidation is left out by hand.
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), &[1; 8]).unwrap();
    let root = rig.engine.domain(domain).unwrap().root();
    let words = iommu_engine::platform::TableFrames::table(&rig.platform, root).unwrap();
    for word in words {
        word.store(0, std::sync::atomic::Ordering::SeqCst);
    }
    assert_eq!(rig.write(iova.get(), &[2; 8]), Ok(()), "still cached");
}

fn r2_after_an_unmap_no_access_gets_through(vendor: Vendor) {
    for machine in vendor.interfaces() {
        let mut rig = Rig::new(machine);
        let domain = rig.attach(edu());
        for bytes in [4096, 64 << 10, 2 << 20, 6 << 20] {
            let run = rig.run(bytes);
            let iova = rig.map(domain, run, bytes, Access::ReadWrite);
            // Cached by use, at both ends.
            rig.write(iova.get(), &[1; 8]).unwrap();
            rig.write(iova.get() + bytes - 8, &[1; 8]).unwrap();
            rig.unmap(domain, iova, bytes);
            for address in [iova.get(), iova.get() + bytes - 8] {
                let refused = rig.write(address, &[2; 8]);
                assert!(blocked(&refused), "{bytes:#x}: {refused:?}");
            }
            rig.platform.free_run(run);
        }
        rig.check();
    }
}

fn r2_addresses_tables_and_memory_wait_for_a_slow_unit(vendor: Vendor) {
    for machine in vendor.interfaces() {
        let mut rig = Rig::new(slow(machine, Takes::After(1_000_000)));
        let domain = rig.attach(edu());
        let before = rig.platform.usage();
        let run = rig.run(4096);
        let iova = rig.map(domain, run, 4096, Access::ReadWrite);
        rig.write(iova.get(), &[1; 8]).unwrap();
        let Rig { platform, engine } = &mut rig;
        let completion = engine.unmap(platform, domain, iova, 4096).unwrap();
        engine.free_run_after(platform, completion.clone(), retired(run));
        assert_eq!(engine.progress(&completion), Progress::Pending);
        // Still cached, still the run's own memory: a late access harms nobody.
        rig.write(iova.get(), &[2; 8]).unwrap();
        assert_eq!(rig.engine.retired(), 2);
        let other = rig.run(4096);
        let other_iova = rig.map(domain, other, 4096, Access::ReadWrite);
        assert_ne!(other_iova, iova, "the address is not given out again yet");
        rig.finish(&completion);
        rig.pass(Duration::ZERO);
        assert_eq!(rig.engine.retired(), 0);
        assert!(rig.write(iova.get(), &[3; 8]).is_err());
        rig.unmap(domain, other_iova, 4096);
        rig.platform.free_run(other);
        let live = rig.platform.usage().live_frames;
        let Rig { platform, engine } = &mut rig;
        engine.give_up_empty_tables(platform, |_| true);
        assert_eq!((platform.usage().live_frames, engine.retired()), (live, 1));
        rig.pass(Duration::from_millis(1));
        assert_eq!((rig.platform.usage(), rig.engine.retired()), (before, 0));
        rig.check();
    }
}

fn r2_a_unit_that_never_confirms_is_given_up_and_nothing_of_it_is_reused(vendor: Vendor) {
    for machine in vendor.interfaces() {
        let mut rig = Rig::new(machine);
        let domain = rig.attach(edu());
        let run = rig.run(4096);
        let iova = rig.map(domain, run, 4096, Access::ReadWrite);
        rig.write(iova.get(), &[1; 8]).unwrap();
        slow_down(&mut rig.platform.machine_mut(), Takes::Never);
        let live = rig.platform.usage().live_runs;
        let Rig { platform, engine } = &mut rig;
        let completion = engine.unmap(platform, domain, iova, 4096).unwrap();
        engine.free_run_after(platform, completion.clone(), retired(run));
        rig.pass(Duration::from_millis(900));
        assert_eq!(rig.engine.progress(&completion), Progress::Pending);
        rig.pass(Duration::from_millis(200));
        assert_eq!(rig.engine.progress(&completion), Progress::Failed);
        let failed = UnitState::Failed(UnitFailure::InvalidationTimedOut);
        assert_eq!(rig.unit_state(0), failed);
        for _ in 0..10 {
            rig.pass(Duration::from_secs(10));
        }
        assert_eq!(rig.platform.usage().live_runs, live, "the memory is kept for good");
        assert!(!rig.engine.is_waiting(), "nobody is kept waiting for it");
        let other = rig.run(4096);
        let spec = MapSpec {
            run: other,
            offset: 0,
            bytes: 4096,
            access: Access::Read,
            align: 4096,
            first: Iova::new(0),
            limit: Iova::new(u64::MAX),
            owner: 2,
        };
        let Rig { platform, engine } = &mut rig;
        let refused = engine.map(platform, domain, &spec).map(drop);
        assert_eq!(refused, Err(EngineError::UnitFailed));
        rig.check();
    }
}

fn a_stuck_unit_delays_nobody_elses_device(vendor: Vendor) {
    let mut rig = Rig::new(vendor.two_units());
    let (mine, its) = (rig.attach(edu()), rig.attach(other()));
    let (run, other_run) = (rig.run(4096), rig.run(4096));
    let iova = rig.map(mine, run, 4096, Access::ReadWrite);
    let other_iova = rig.map(its, other_run, 4096, Access::ReadWrite);
    slow_down(&mut rig.platform.machine_mut(), Takes::Never);
    let Rig { platform, engine } = &mut rig;
    let never = engine.unmap(platform, its, other_iova, 4096).unwrap();
    let completion = engine.unmap(platform, mine, iova, 4096).unwrap();
    assert_eq!(engine.progress(&completion), Progress::Done);
    assert_eq!(engine.progress(&never), Progress::Pending);
    rig.check();
}

fn more_invalidations_than_the_queue_holds_are_all_done(vendor: Vendor) {
    let mut rig = Rig::new(slow(vendor.machine(), Takes::After(100_000)));
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iovas: Vec<_> = (0..1000).map(|_| rig.map(domain, run, 4096, Access::ReadWrite)).collect();
    for iova in &iovas {
        rig.write(iova.get(), &[1; 8]).unwrap();
    }
    let mut all = iommu_engine::completion::Completion::none();
    for iova in &iovas {
        let Rig { platform, engine } = &mut rig;
        all.join(&engine.unmap(platform, domain, *iova, 4096).unwrap());
    }
    rig.finish(&all);
    for iova in &iovas {
        assert!(rig.write(iova.get(), &[2; 8]).is_err());
    }
    rig.check();
}

fn a_domain_is_cheaper_than_a_thousand_pages(vendor: Vendor) {
    // 128 MiB in one unmap: a few requests, and not thirty thousand.
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let run = rig.run(128 << 20);
    let iova = rig.map(domain, run, 128 << 20, Access::ReadWrite);
    let before = forgotten(&rig.platform.machine());
    rig.unmap(domain, iova, 128 << 20);
    let after = forgotten(&rig.platform.machine());
    assert!(after - before <= 4, "{}", after - before);
    rig.check();
}
