//! Requests that are no requests, to every kind of handle: bytes without any order, and requests with some of their bytes
//! changed.

use fuzz::{Chance, Steps, Trial};
use iommu_engine::policy::Invalidation;

use crate::requests::{REQUESTS, weighted};
use crate::vendor::Vendor;
use crate::world::{Ask, DEVICES, What, World};

both! {
    r5_r7_any_bytes_to_any_handle_are_refused_or_make_sense,
}

const ANY: &[What] = &[What::Device, What::Domain, What::Buffer, What::PeerBar, What::Registration];

/// The most handles that are open.
const MOST: usize = 24;

/// A request of bytes without any order, but for where it says what it is.
fn noise(world: &World, chance: &mut Chance) -> Option<(crate::world::Held, Ask, Vec<u8>)> {
    let of = world.pick(chance, ANY)?;
    let mut bytes: Vec<u8> = (0..chance.below(160)).map(|_| chance.likely_byte()).collect();
    if chance.once_in(2) {
        let kind = (chance.below(12) as u32).to_le_bytes();
        bytes.iter_mut().zip(kind).for_each(|(byte, kind)| *byte = kind);
        return Some((of, Ask::Derive, bytes));
    }
    let opcode = if chance.once_in(16) { chance.long() } else { chance.below(26) as u64 };
    Some((of, Ask::Call(opcode), bytes))
}

fn step(world: &mut World, chance: &mut Chance) {
    if world.held.is_empty() {
        DEVICES.iter().for_each(|name| world.open(0, &format!("device/{name}")));
    }
    if world.held.len() > MOST {
        let index = chance.below(world.held.len());
        return world.close(index);
    }
    let request = if chance.once_in(4) {
        noise(world, chance)
    } else {
        weighted(chance, REQUESTS)(world, chance)
    };
    let Some((of, ask, mut bytes)) = request else { return };
    if !chance.once_in(6) {
        chance.change(&mut bytes);
    }
    world.send(of, ask, &mut bytes);
    match chance.below(64) {
        0 => {
            let path: Vec<u8> = (0..chance.below(40)).map(|_| chance.byte()).collect();
            world.open(0, &String::from_utf8_lossy(&path));
        }
        1 => {
            let (offset, bytes) = (chance.long(), chance.long());
            let _ = world.service.grant(of.handle, offset, bytes, chance.once_in(2));
            let _ = world.service.read(of.handle, offset, &mut [0; 64]);
        }
        _ => {}
    }
}

fn r5_r7_any_bytes_to_any_handle_are_refused_or_make_sense(vendor: Vendor) {
    let trial = Trial { name: "messages", steps: 40_000, each: 10_000 };
    trial.run(|steps: Steps<'_>| {
        let mut world = World::new(vendor, Invalidation::Strict);
        let mut last = Chance::of(0);
        for mut chance in steps {
            step(&mut world, &mut chance);
            if chance.once_in(16) {
                world.look(&mut chance);
            }
            if chance.once_in(1000) {
                world.end(&mut chance);
            }
            last = chance;
        }
        world.end(&mut last);
        world.done > 0
    });
}
