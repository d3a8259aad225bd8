//! Clients that ask for anything in any order, pass handles on, and die, while devices write wherever they ever could and
//! units are slow: whatever comes of it, each rule holds after each step.

use fuzz::{Chance, Steps, Trial};
use iommu_engine::policy::Invalidation;

use crate::coverage::{self, Outcomes};
use crate::requests::{DEEDS, REQUESTS, weighted};
use crate::vendor::Vendor;
use crate::world::World;

both! {
    r1_to_r7_hold_after_each_step_of_any_clients,
    r1_to_r7_hold_after_each_step_where_unmaps_are_gathered,
}

/// Once in so many steps everything is closed, and counted.
const ROUND: usize = 250;

/// One thing that happens.
fn step(world: &mut World, chance: &mut Chance) {
    // Of two steps, one is a request.
    if chance.once_in(3) {
        let deed = weighted(chance, DEEDS);
        deed(world, chance);
    } else {
        // Some can only be made when there is something to make them of.
        let request = (0..4).find_map(|_| weighted(chance, REQUESTS)(world, chance));
        let Some((of, ask, mut bytes)) = request else { return };
        if chance.once_in(20) {
            chance.change(&mut bytes);
        }
        if !world.send(of, ask, &mut bytes) && chance.once_in(2) {
            world.greet(of.handle);
        }
    }
}

fn attempt(vendor: Vendor, invalidation: Invalidation, steps: Steps<'_>) -> bool {
    let mut world = World::new(vendor, invalidation);
    let mut last = Chance::of(0);
    for mut chance in steps {
        step(&mut world, &mut chance);
        world.look(&mut chance);
        if chance.once_in(ROUND) {
            world.end(&mut chance);
        }
        last = chance;
    }
    world.end(&mut last);
    world.done > 0
}

fn r1_to_r7_hold_after_each_step_of_any_clients(vendor: Vendor) {
    let trial = Trial { name: "sequences, strict", steps: 10_000, each: 5000 };
    trial.run(|steps| attempt(vendor, Invalidation::Strict, steps));
}

fn r1_to_r7_hold_after_each_step_where_unmaps_are_gathered(vendor: Vendor) {
    let trial = Trial { name: "sequences, gathered", steps: 10_000, each: 5000 };
    trial.run(|steps| attempt(vendor, Invalidation::Deferred, steps));
}

/// Each request is done, and refused, in what is tried here: one that never is would be tried in vain.
#[test]
fn every_request_is_done_and_is_refused() {
    let trial = Trial { name: "sequences, coverage", steps: 30_000, each: 5000 };
    for vendor in [Vendor::Vtd, Vendor::Amdvi] {
        trial.run(|steps| attempt(vendor, Invalidation::Strict, steps));
    }
    let all = coverage::all();
    println!("{:28} {:>9} {:>9}  errors", "request", "done", "refused");
    for (name, outcomes) in &all {
        println!("{name:28} {:>9} {:>9}  {:?}", outcomes.done, outcomes.refused, outcomes.errors);
    }
    let never = |wanted: fn(&Outcomes) -> u64| {
        // Those of simulated devices are not the service's.
        let rows = all.iter().filter(|(name, row)| !name.starts_with("Sim") && wanted(row) == 0);
        rows.map(|(name, _)| name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(never(|row| row.done), [""; 0], "never done");
    assert_eq!(never(|row| row.refused), [""; 0], "never refused");
}
