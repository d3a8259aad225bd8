//! Unmaps of one call: each unit is asked once (R2, R7).

use dma_types::{Access, Iova};
use iommu_engine::completion::Progress;
use iommu_engine::domain::DomainKey;
use iommu_engine::error::EngineError;
use iommu_engine::policy::Invalidation;
use iommu_sim::pace::Completion as Takes;

use crate::rig::{Rig, blocked, edu, retired};
use crate::vendor::{Vendor, forgotten, slow, waits};

both! {
    r2_a_batch_of_unmaps_is_forgotten_at_one_go,
    many_places_are_one_request_for_the_whole_domain,
    r2_a_batch_gives_nothing_back_before_units_have_forgotten_it,
    r7_a_batch_with_what_is_not_mapped_unmaps_nothing,
}

const PAGE: u64 = 4096;

/// So many single pages, each mapped and seen by the unit, this far from each other.
fn pages(rig: &mut Rig, domain: DomainKey, count: usize, holes: u64) -> Vec<(Iova, u64)> {
    let run = rig.run(PAGE);
    let mapped = (0..count).map(|_| {
        let iova = rig.map(domain, run, PAGE, Access::ReadWrite);
        for _ in 0..holes {
            rig.map(domain, run, PAGE, Access::ReadWrite);
        }
        rig.write(iova.get(), &[1]).unwrap();
        (iova, PAGE)
    });
    mapped.collect()
}

/// Unmaps them at one go: how many requests to forget that took, and how many waits.
fn unmap_all(rig: &mut Rig, domain: DomainKey, ranges: &[(Iova, u64)]) -> (u64, u64) {
    let count = |rig: &Rig| (forgotten(&rig.platform.machine()), waits(&rig.platform.machine()));
    let before = count(rig);
    let Rig { platform, engine } = rig;
    let completion =
        engine.unmap_all(platform, domain, ranges.iter().copied(), Invalidation::Deferred).unwrap();
    rig.finish(&completion);
    for (iova, _) in ranges {
        assert!(blocked(&rig.write(iova.get(), &[2])), "{iova}");
    }
    let after = count(rig);
    (after.0 - before.0, after.1 - before.1)
}

fn r2_a_batch_of_unmaps_is_forgotten_at_one_go(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    // With nothing but guards between them they are one block, or two.
    let mut near = pages(&mut rig, domain, 64, 0);
    near.reverse();
    let (requests, waited) = unmap_all(&mut rig, domain, &near);
    assert!(requests <= 2, "{requests}");
    assert_eq!(waited, 1);
    let apart = pages(&mut rig, domain, 5, 3);
    assert_eq!(unmap_all(&mut rig, domain, &apart), (5, 1));
    assert_eq!(unmap_all(&mut rig, domain, &[]), (0, 0));
    assert_eq!(rig.engine.retired(), 0);
    rig.check();
}

fn many_places_are_one_request_for_the_whole_domain(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let apart = pages(&mut rig, domain, 40, 2);
    assert_eq!(unmap_all(&mut rig, domain, &apart), (1, 1));
    rig.check();
}

fn r2_a_batch_gives_nothing_back_before_units_have_forgotten_it(vendor: Vendor) {
    for config in vendor.interfaces() {
        let mut rig = Rig::new(slow(config, Takes::After(1_000_000)));
        let domain = rig.attach(edu());
        let ranges = pages(&mut rig, domain, 3, 1);
        let run = rig.run(PAGE);
        let Rig { platform, engine } = &mut rig;
        let completion = engine
            .unmap_all(platform, domain, ranges.iter().copied(), Invalidation::Deferred)
            .unwrap();
        engine.free_run_after(platform, completion.clone(), retired(run));
        assert_eq!((engine.progress(&completion), engine.retired()), (Progress::Pending, 4));
        let next = rig.run(PAGE);
        let elsewhere = rig.map(domain, next, PAGE, Access::Read);
        assert!(ranges.iter().all(|(iova, _)| *iova != elsewhere));
        rig.finish(&completion);
        rig.pass(std::time::Duration::from_millis(1));
        assert_eq!(rig.engine.retired(), 0);
        let back: Vec<_> = (0..3).map(|_| rig.map(domain, next, PAGE, Access::Read)).collect();
        assert!(ranges.iter().all(|(iova, _)| back.contains(iova)), "{ranges:?} {back:?}");
        rig.check();
    }
}

fn r7_a_batch_with_what_is_not_mapped_unmaps_nothing(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let domain = rig.attach(edu());
    let good = pages(&mut rig, domain, 2, 0);
    let (first, second) = (good[0], good[1]);
    for bad in [
        vec![first, second, first],
        vec![first, (second.0, 2 * PAGE)],
        vec![(Iova::new(first.0.get() + PAGE), PAGE), first],
        vec![first, (Iova::new(u64::MAX), u64::MAX)],
        vec![(Iova::new(0), 0), second],
    ] {
        let Rig { platform, engine } = &mut rig;
        let refused =
            engine.unmap_all(platform, domain, bad.iter().copied(), Invalidation::Deferred);
        assert_eq!(refused, Err(EngineError::NotMapped), "{bad:?}");
        assert!(good.iter().all(|(iova, _)| rig.write(iova.get(), &[3]).is_ok()), "{bad:?}");
    }
    unmap_all(&mut rig, domain, &good);
    rig.check();
}
