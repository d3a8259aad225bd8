//! All orders of events.

use std::collections::HashMap;

use iommu_engine::policy::Invalidation;

use crate::event::{Event, all};
use crate::rules::look;
use crate::state::key;
use crate::vendor::Vendor;
use crate::world::World;

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// So many events follow each other.
    pub(crate) events: usize,
    /// So many clients take part.
    pub(crate) clients: usize,
    /// So many I/O addresses of a page each there are.
    pub(crate) pages: u64,
}

/// A state, by one of the shortest ways to it.
struct Node {
    way: Vec<Event>,
    can: Vec<Event>,
    /// The states that these lead to, once they have been tried.
    next: Vec<usize>,
}

/// What went before a panic.
struct Way<'a>(&'a [Event], Event);

impl Drop for Way<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:?}, then {:?}", self.0, self.1);
        }
    }
}

/// Tries all orders of events up to the bound that follow these, those once that come to the same state.
pub(crate) fn explore(vendor: Vendor, invalidation: Invalidation, first: &[Event], bound: Bound) {
    let events = all(bound.clients);
    let mut world = World::start(vendor, invalidation, bound);
    let can = |world: &World| events.iter().copied().filter(|it| world.can(*it)).collect();
    for event in first.iter().copied() {
        if world.can(event) {
            world.happens(event);
        }
        look(&mut world).expect("a beginning");
    }
    let start = look(&mut world).expect("a beginning");
    let mut found = HashMap::from([(key(&world, &start), 0)]);
    let mut nodes = vec![Node { way: first.to_vec(), can: can(&world), next: Vec::new() }];
    let mut steps = 0;
    let mut at = 0;
    while at < nodes.len() && nodes[at].way.len() < first.len() + bound.events {
        for event in nodes[at].can.clone() {
            world.clear(false);
            let mut reached = Vec::new();
            let guard = Way(&nodes[at].way, event);
            for event in nodes[at].way.iter().copied().chain([event]) {
                // Of the beginning, some may have happened by itself.
                if world.can(event) {
                    world.happens(event);
                }
                match look(&mut world) {
                    Ok(now) => reached = now,
                    Err(what) => panic!("{vendor:?}, {invalidation:?}: {what}"),
                }
            }
            drop(guard);
            steps += 1;
            let count = nodes.len();
            let state = *found.entry(key(&world, &reached)).or_insert(count);
            if state == count {
                let way = nodes[at].way.iter().copied().chain([event]).collect();
                nodes.push(Node { way, can: can(&world), next: Vec::new() });
            }
            nodes[at].next.push(state);
        }
        at += 1;
    }
    world.clear(false);
    assert_eq!(world.service.platform().spoilt_frames(), 0, "a free frame was written to");
    println!(
        "{vendor:?}, {invalidation:?}, after {}, {bound:?}: {} states, {steps} steps, {} orders of events",
        first.len(),
        nodes.len(),
        orders(&nodes, bound.events)
    );
}

/// How many orders of so many events there are, or of fewer where nothing more can happen.
fn orders(nodes: &[Node], events: usize) -> u128 {
    let mut ways: Vec<u128> = vec![1; nodes.len()];
    for _ in 0..events {
        let further = |node: &Node| match node.next.as_slice() {
            [] => 1,
            next => next.iter().map(|it| ways[*it]).sum(),
        };
        ways = nodes.iter().map(further).collect();
    }
    ways[0]
}
