//! Unmaps that units are told of together (R2).

use std::time::Duration;

use dma_types::Access;
use iommu_engine::completion::Progress;
use iommu_engine::engine::deferred::{LONGEST_WAIT, MOST_GATHERED};
use iommu_engine::policy::{Devices, Invalidation, Policy, Rule};
use iommu_sim::pace::Completion as Takes;

use crate::rig::{Rig, edu, other, retired};
use crate::vendor::{Vendor, slow_down};

both! {
    r2_until_the_units_were_told_nothing_that_was_unmapped_is_used_again,
    many_unmaps_are_one_request_and_a_full_batch_does_not_wait,
    r4_a_device_that_is_detached_reaches_nothing_of_what_was_gathered,
    a_rule_makes_one_device_strict_again,
    r2_one_unmap_is_strict_where_others_are_gathered,
    r2_a_stuck_unit_holds_nothing_up_that_was_gathered_with_what_it_knows,
    r2_memory_that_was_mapped_in_several_domains_waits_for_the_batches_of_all,
}

fn deferred() -> Policy {
    Policy { invalidation: Invalidation::Deferred, ..Policy::default() }
}

fn r2_until_the_units_were_told_nothing_that_was_unmapped_is_used_again(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.machine(), deferred());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), &[1; 8]).unwrap();
    let free_before = rig.platform.usage().live_run_bytes;

    let Rig { platform, engine } = &mut rig;
    let completion = engine.unmap(platform, domain, iova, 4096).unwrap();
    engine.free_run_after(platform, completion.clone(), retired(run));
    assert_eq!(completion.tickets().count(), 0);
    // The window that this policy leaves open, and why it is not the default.
    assert_eq!(rig.write(iova.get(), &[2; 8]), Ok(()));
    assert_eq!(rig.engine.progress(&completion), Progress::Pending);
    assert_eq!(rig.platform.usage().live_run_bytes, free_before);
    let next = rig.run(4096);
    assert_ne!(rig.map(domain, next, 4096, Access::ReadWrite), iova);

    rig.pass(LONGEST_WAIT);
    rig.finish(&completion);
    assert!(rig.write(iova.get(), &[3; 8]).is_err());
    assert_eq!(rig.platform.usage().live_run_bytes, free_before);
    rig.check();
}

fn many_unmaps_are_one_request_and_a_full_batch_does_not_wait(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.machine(), deferred());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let mut last = None;
    for _ in 0..MOST_GATHERED {
        let iova = rig.map(domain, run, 4096, Access::ReadWrite);
        let Rig { platform, engine } = &mut rig;
        last = Some(engine.unmap(platform, domain, iova, 4096).unwrap());
    }
    // No time has passed since the last.
    rig.pass(Duration::ZERO);
    rig.finish(&last.unwrap());
    assert_eq!(rig.engine.retired(), 0);
    rig.check();
}

fn r4_a_device_that_is_detached_reaches_nothing_of_what_was_gathered(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.machine(), deferred());
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), &[1; 8]).unwrap();
    let Rig { platform, engine } = &mut rig;
    engine.unmap(platform, domain, iova, 4096).unwrap();
    let detached = engine.detach(platform, edu()).unwrap();
    engine.destroy_domain(platform, domain).unwrap();
    rig.finish(&detached);
    assert!(rig.write(iova.get(), &[2; 8]).is_err());
    rig.pass(LONGEST_WAIT);
    assert_eq!(rig.engine.retired(), 0);
    rig.check();
}

fn a_rule_makes_one_device_strict_again(vendor: Vendor) {
    let mut policy = deferred();
    let rule = Rule { invalidation: Some(Invalidation::Strict), ..Rule::new(Devices::At(edu())) };
    policy.rules.push(rule);
    let mut rig = Rig::with_policy(vendor.machine(), policy);
    let domain = rig.attach(edu());
    let run = rig.run(4096);
    let iova = rig.map(domain, run, 4096, Access::ReadWrite);
    rig.write(iova.get(), &[1; 8]).unwrap();
    rig.unmap(domain, iova, 4096);
    assert!(rig.write(iova.get(), &[2; 8]).is_err());
    rig.check();
}

fn r2_one_unmap_is_strict_where_others_are_gathered(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.machine(), deferred());
    let domain = rig.attach(edu());
    let run = rig.run(3 * 4096);
    let pages = [0; 3].map(|_| rig.map(domain, run, 4096, Access::ReadWrite));
    pages.iter().for_each(|iova| rig.write(iova.get(), &[1; 8]).unwrap());
    slow_down(&mut rig.platform.machine_mut(), Takes::After(10_000));
    let Rig { platform, engine } = &mut rig;
    let gathered = engine.unmap(platform, domain, pages[0], 4096).unwrap();
    let ranges = pages[1..].iter().map(|iova| (*iova, 4096));
    let strict = engine.unmap_all(platform, domain, ranges, Invalidation::Strict).unwrap();
    assert_eq!((strict.batches().count(), strict.tickets().count()), (0, 1));
    assert_eq!(engine.progress(&strict), Progress::Pending);
    rig.finish(&strict);
    assert!(pages[1..].iter().all(|iova| rig.write(iova.get(), &[2; 8]).is_err()));
    // The others wait as before, and with them what they keep out of use.
    assert_eq!((rig.engine.progress(&gathered), rig.engine.retired()), (Progress::Pending, 1));
    rig.write(pages[0].get(), &[3; 8]).unwrap();
    // Who waits for room has all of them told.
    let Rig { platform, engine } = &mut rig;
    engine.hasten(platform, &gathered);
    rig.finish(&gathered);
    assert!(rig.write(pages[0].get(), &[4; 8]).is_err());
    assert_eq!(rig.engine.retired(), 0);
    rig.check();
}

fn r2_a_stuck_unit_holds_nothing_up_that_was_gathered_with_what_it_knows(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.two_units(), deferred());
    let (here, there) = (rig.attach(edu()), rig.attach(other()));
    let (run, another) = (rig.run(4096), rig.run(4096));
    let iova = rig.map(here, run, 4096, Access::ReadWrite);
    let stuck = rig.map(there, another, 4096, Access::ReadWrite);
    slow_down(&mut rig.platform.machine_mut(), Takes::Never);
    let Rig { platform, engine } = &mut rig;
    let never = engine.unmap(platform, there, stuck, 4096).unwrap();
    let soon = engine.unmap(platform, here, iova, 4096).unwrap();
    rig.pass(LONGEST_WAIT);
    rig.pass(Duration::from_millis(1));
    assert_eq!(rig.engine.progress(&soon), Progress::Done);
    assert_eq!(rig.engine.progress(&never), Progress::Pending);
    for _ in 0..3 {
        rig.pass(Duration::from_secs(1));
    }
    assert_eq!(rig.engine.progress(&never), Progress::Failed);
    assert_eq!(rig.map(here, run, 4096, Access::ReadWrite), iova, "its addresses are free again");
    rig.check();
}

fn r2_memory_that_was_mapped_in_several_domains_waits_for_the_batches_of_all(vendor: Vendor) {
    let mut rig = Rig::with_policy(vendor.two_units(), deferred());
    let (here, there) = (rig.attach(edu()), rig.attach(other()));
    let run = rig.run(4096);
    let iova = rig.map(here, run, 4096, Access::ReadWrite);
    let slow = rig.map(there, run, 4096, Access::ReadWrite);
    let live = rig.platform.usage().live_run_bytes;
    slow_down(&mut rig.platform.machine_mut(), Takes::After(50_000));
    let Rig { platform, engine } = &mut rig;
    let mut both = engine.unmap(platform, there, slow, 4096).unwrap();
    let soon = engine.unmap(platform, here, iova, 4096).unwrap();
    both.join(&soon);
    engine.free_run_after(platform, both.clone(), retired(run));
    rig.pass(LONGEST_WAIT);
    rig.pass(Duration::from_micros(10));
    assert_eq!(rig.engine.progress(&soon), Progress::Done);
    assert_eq!(rig.engine.progress(&both), Progress::Pending);
    assert_eq!(rig.platform.usage().live_run_bytes, live);
    rig.engine.forget_confirmed(&mut both);
    assert_eq!(both.batches().count(), 1, "what is confirmed need not be kept");
    rig.finish(&both);
    assert_eq!(rig.platform.usage().live_run_bytes, live - 4096);
    rig.check();
}
