//! Clients that ask for anything in any order, pass handles on, and die, while devices write wherever they ever could and
//! units are slow: whatever comes of it, each rule holds after each step.

use fuzz::{Chance, Steps, Trial};
use iommu_engine::policy::Invalidation;

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
        let request = weighted(chance, REQUESTS);
        let Some((of, ask, mut bytes)) = request(world, chance) else { return };
        if chance.once_in(20) {
            chance.change(&mut bytes);
        }
        world.send(of, ask, &mut bytes);
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
    let trial = Trial { name: "sequences, strict", steps: 20_000, each: 5000 };
    trial.run(|steps| attempt(vendor, Invalidation::Strict, steps));
}

fn r1_to_r7_hold_after_each_step_where_unmaps_are_gathered(vendor: Vendor) {
    let trial = Trial { name: "sequences, gathered", steps: 20_000, each: 5000 };
    trial.run(|steps| attempt(vendor, Invalidation::Deferred, steps));
}
