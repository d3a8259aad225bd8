//! All orders of events.

use std::collections::HashMap;

use iommu_engine::policy::Invalidation;

use crate::event::{Event, Step, all};
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
    /// So many I/O addresses there are, for a buffer each.
    pub(crate) pages: u64,
    /// How long a buffer is: a page of some size.
    pub(crate) bytes: u64,
    /// So often iommud dies.
    pub(crate) deaths: usize,
    /// Whether it does in the midst of events, too, after each of its accesses.
    pub(crate) anywhere: bool,
    /// Whether there is an explicit domain.
    pub(crate) domains: bool,
    /// Whether there are restricted handles.
    pub(crate) parts: bool,
}

impl Bound {
    /// Two clients, one address, and nothing else.
    pub(crate) const fn new(events: usize) -> Self {
        Self {
            events,
            clients: 2,
            pages: 1,
            bytes: 4096,
            deaths: 0,
            anywhere: false,
            domains: false,
            parts: false,
        }
    }
}

/// After so many restarts the machine is another, with the same in it: each takes frames that nobody had before.
const MOST_RESTARTS: usize = 500;

/// A state, by one of the shortest ways to it.
struct Node {
    way: Vec<Step>,
    can: Vec<Event>,
    may_die: bool,
    /// The states that these lead to, once they have been tried.
    next: Vec<usize>,
}

impl Node {
    fn new(world: &World, way: Vec<Step>, events: &[Event]) -> Self {
        let can = events.iter().copied().filter(|it| world.can(*it)).collect();
        Self { way, can, may_die: world.can(Event::Restart), next: Vec::new() }
    }
}

/// What went before a panic.
struct Way<'a>(&'a [Step], Step);

impl Drop for Way<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:?}, then {:?}", self.0, self.1);
        }
    }
}

/// Tries all orders of events up to the bound that follow these, those once that come to the same state.
pub(crate) fn explore(vendor: Vendor, invalidation: Invalidation, first: &[Event], bound: Bound) {
    let events = all(&bound);
    let mut world = World::start(vendor, invalidation, bound);
    let first: Vec<Step> = first.iter().copied().map(Step::from).collect();
    for step in first.iter().copied() {
        if world.can(step.event) {
            world.happens(step);
        }
        look(&mut world).expect("a beginning");
    }
    let start = look(&mut world).expect("a beginning");
    let mut found = HashMap::from([(key(&world, &start), 0)]);
    let mut nodes = vec![Node::new(&world, first.clone(), &events)];
    let (mut steps, mut dead, mut spoilt, mut at) = (0, 0, 0, 0);
    while at < nodes.len() && nodes[at].way.len() < first.len() + bound.events {
        for event in nodes[at].can.clone() {
            let dies_in = bound.anywhere && nodes[at].may_die && event.is_iommuds();
            // In the midst of it after no access, after one, and so on, until it is done with it before.
            let mut dies_after = dies_in.then_some(0);
            loop {
                let mut step = Step { event, dies_after };
                world.clear(false);
                if world.restarts > MOST_RESTARTS {
                    spoilt += world.sim().spoilt_frames();
                    world = World::start(vendor, invalidation, bound);
                }
                let guard = Way(&nodes[at].way, step);
                let mut reached = Vec::new();
                let mut has_died = false;
                for step in nodes[at].way.iter().copied().chain([step]) {
                    // Of the beginning, some may have happened by itself.
                    if world.can(step.event) {
                        has_died = world.happens(step);
                    }
                    match look(&mut world) {
                        Ok(now) => reached = now,
                        Err(what) => panic!("{vendor:?}, {invalidation:?}: {what}"),
                    }
                }
                drop(guard);
                steps += 1;
                dead += usize::from(has_died);
                step.dies_after = dies_after.filter(|_| has_died);
                let count = nodes.len();
                let state = *found.entry(key(&world, &reached)).or_insert(count);
                if state == count {
                    let way = nodes[at].way.iter().copied().chain([step]).collect();
                    nodes.push(Node::new(&world, way, &events));
                }
                nodes[at].next.push(state);
                if !has_died {
                    break;
                }
                dies_after = dies_after.map(|accesses| accesses + 1);
            }
        }
        at += 1;
    }
    world.clear(false);
    spoilt += world.sim().spoilt_frames();
    assert_eq!(spoilt, 0, "a free frame was written to");
    println!(
        "{vendor:?}, {invalidation:?}, after {}, {bound:?}: {} states, {steps} steps, {dead} deaths in their midst, {} orders of events",
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
