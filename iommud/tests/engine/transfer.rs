//! Devices from one domain into another (R1, R7).

use std::time::Duration;

use dma_types::Access;
use iommu_engine::completion::Progress;
use iommu_engine::error::EngineError;
use iommu_engine::policy::{Invalidation, Policy};
use iommu_sim::pace::Completion as Takes;

use crate::rig::{Rig, blocked, edu, other, retired};
use crate::topology::traffic::at;
use crate::vendor::{Vendor, slow, slow_down};

both! {
    r1_a_device_that_is_moved_reaches_the_other_domain_and_nothing_of_before,
    r2_what_was_mapped_before_is_held_until_the_unit_has_forgotten_it,
    several_devices_are_in_one_domain_and_leave_it_alone,
    r7_a_move_that_is_refused_leaves_the_device_where_it_was,
    r7_a_move_for_which_there_is_no_memory_leaves_the_device_where_it_was,
    r4_a_device_that_ends_in_another_domain_reaches_nothing,
    a_domain_that_is_left_can_be_destroyed_and_its_id_comes_back,
}

fn r1_a_device_that_is_moved_reaches_the_other_domain_and_nothing_of_before(vendor: Vendor) {
    for config in vendor.interfaces().into_iter().chain([vendor.caching()]) {
        let mut rig = Rig::new(config);
        let own = rig.attach(edu());
        let run = rig.run(4096);
        let mine = rig.map(own, run, 4096, Access::ReadWrite).get();
        rig.write(mine, &[1]).unwrap();
        let Rig { platform, engine } = &mut rig;
        let shared = engine.create_explicit_domain(platform, &[edu()], None).unwrap();
        let there = rig.map(shared, run, 4096, Access::Read).get();
        let spare = rig.map(shared, run, 4096, Access::Read).get();
        let only_there = if there == mine { spare } else { there };
        for _ in 0..3 {
            assert!(rig.write(mine, &[1]).is_ok() && blocked(&rig.read(only_there, 1)));
            rig.transfer(shared).unwrap();
            assert!(blocked(&rig.write(mine, &[2])) && rig.read(only_there, 1).is_ok());
            rig.transfer(own).unwrap();
        }
        rig.check();
    }
}

impl Rig {
    fn transfer(&mut self, to: iommu_engine::domain::DomainKey) -> Result<(), EngineError> {
        let completion = self.engine.transfer(&mut self.platform, edu(), to)?;
        self.finish(&completion);
        Ok(())
    }
}

fn r2_what_was_mapped_before_is_held_until_the_unit_has_forgotten_it(vendor: Vendor) {
    let mut rig = Rig::new(slow(vendor.machine(), Takes::After(1_000_000)));
    let own = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(own, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), &[1]).unwrap();
    let Rig { platform, engine } = &mut rig;
    let shared = engine.create_explicit_domain(platform, &[edu()], None).unwrap();
    let moved = engine.transfer(platform, edu(), shared).unwrap();
    assert_eq!(engine.progress(&moved), Progress::Pending);
    // Nobody is in it, but its unit may still look there.
    let live = platform.usage();
    let detached = engine.domain(own).unwrap().detached().clone();
    engine.destroy_domain(platform, own).unwrap();
    engine.free_run_after(platform, detached, retired(run));
    assert_eq!(platform.usage(), live);
    rig.finish(&moved);
    rig.pass(Duration::from_millis(2));
    assert!(rig.platform.usage().live_frames < live.live_frames);
    assert_eq!((rig.engine.retired(), rig.platform.usage().live_runs), (0, live.live_runs - 1));
    assert!(rig.write(iova.get(), &[2]).is_err());
    rig.check();
}

fn several_devices_are_in_one_domain_and_leave_it_alone(vendor: Vendor) {
    for config in [vendor.machine().with_root_port(), vendor.two_units()] {
        let mut rig = Rig::new(config);
        let (own, others) = (rig.attach(edu()), rig.attach(other()));
        let Rig { platform, engine } = &mut rig;
        let shared = engine.create_explicit_domain(platform, &[edu(), other()], None).unwrap();
        let run = rig.run(4096);
        let iova = rig.map(shared, run, 4096, Access::ReadWrite).get();
        for device in [edu(), other()] {
            let completion = rig.engine.transfer(&mut rig.platform, device, shared).unwrap();
            rig.finish(&completion);
        }
        let write = |rig: &mut Rig, device| {
            rig.platform.machine_mut().dma_write(device, iova, &[7]).is_ok()
        };
        assert!(write(&mut rig, edu()) && write(&mut rig, other()));
        rig.transfer(own).unwrap();
        assert!(!write(&mut rig, edu()) && write(&mut rig, other()));
        assert_eq!(rig.engine.domain(shared).unwrap().devices(), 1);
        // What is unmapped now is forgotten by all who ever were in it.
        rig.unmap(shared, dma_types::Iova::new(iova), 4096);
        assert!(!write(&mut rig, other()));
        let completion = rig.engine.transfer(&mut rig.platform, other(), others).unwrap();
        rig.finish(&completion);
        rig.engine.destroy_domain(&mut rig.platform, shared).unwrap();
        rig.check();
    }
}

fn r7_a_move_that_is_refused_leaves_the_device_where_it_was(vendor: Vendor) {
    let (card, sibling) = (at("21:01.0"), at("21:02.0"));
    let mut rig = Rig::new(vendor.machine().with_pci_bridge());
    let own = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(own, run, 4096, Access::ReadWrite).get();
    let group = rig.attach(card);
    let Rig { platform, engine } = &mut rig;
    let shared = engine.create_explicit_domain(platform, &[edu()], None).unwrap();
    let mut refuse = |device, to| engine.transfer(platform, device, to).unwrap_err();
    let gone = iommu_engine::domain::DomainKey(99);
    assert_eq!(refuse(edu(), gone), EngineError::NoSuchDomain(gone));
    assert_eq!(refuse(edu(), own), EngineError::AlreadyAttached(edu()));
    assert_eq!(refuse(at("00:09.0"), shared), EngineError::NoSuchDevice(at("00:09.0")));
    if let Ok(completion) = engine.attach(platform, sibling, group) {
        assert_eq!(engine.progress(&completion), Progress::Done);
        let refused = engine.transfer(platform, card, shared).unwrap_err();
        assert_eq!(refused, EngineError::GroupElsewhere(card, sibling));
    }
    rig.write(iova, &[1]).unwrap();
    rig.check();
}

fn r7_a_move_for_which_there_is_no_memory_leaves_the_device_where_it_was(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let own = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(own, run, 4096, Access::ReadWrite).get();
    let Rig { platform, engine } = &mut rig;
    let shared = engine.create_explicit_domain(platform, &[edu()], None).unwrap();
    platform.limit_frames(0);
    // It takes none: the tables are there, and so are the records.
    rig.transfer(shared).unwrap();
    assert!(rig.write(iova, &[1]).is_err());
    rig.transfer(own).unwrap();
    rig.write(iova, &[1]).unwrap();
    rig.check();
}

fn r4_a_device_that_ends_in_another_domain_reaches_nothing(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let own = rig.attach(edu());
    let Rig { platform, engine } = &mut rig;
    let shared = engine.create_explicit_domain(platform, &[edu()], None).unwrap();
    let run = rig.run(4096);
    let iova = rig.map(shared, run, 4096, Access::ReadWrite).get();
    rig.transfer(shared).unwrap();
    rig.write(iova, &[1]).unwrap();
    rig.detach(edu());
    assert!(rig.write(iova, &[1]).is_err());
    for domain in [own, shared] {
        rig.engine.destroy_domain(&mut rig.platform, domain).unwrap();
    }
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.engine.retired(), 0);
    rig.check();
}

fn a_domain_that_is_left_can_be_destroyed_and_its_id_comes_back(vendor: Vendor) {
    let policy = Policy { invalidation: Invalidation::Deferred, ..Policy::default() };
    let mut rig = Rig::with_policy(vendor.machine(), policy);
    let own = rig.attach(edu());
    let ids = |rig: &Rig| rig.engine.units()[0].unit.as_ref().unwrap().domain_ids_in_use();
    let before = (ids(&rig), rig.platform.usage());
    for _ in 0..40 {
        let Rig { platform, engine } = &mut rig;
        let shared = engine.create_explicit_domain(platform, &[edu()], None).unwrap();
        slow_down(&mut platform.machine_mut(), Takes::Immediate);
        rig.transfer(shared).unwrap();
        let busy = rig.engine.destroy_domain(&mut rig.platform, shared);
        assert_eq!(busy, Err(EngineError::DomainInUse(shared)));
        rig.transfer(own).unwrap();
        rig.engine.destroy_domain(&mut rig.platform, shared).unwrap();
        rig.pass(Duration::from_millis(1));
    }
    assert_eq!((ids(&rig), rig.platform.usage()), before);
    rig.check();
}
