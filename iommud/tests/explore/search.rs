//! All orders of events.

use iommu_engine::policy::Invalidation;

use crate::event::{Event, Step, all};
use crate::graph::Graph;
use crate::rules::{Reached, look};
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
    /// For so many buffers there is room in a domain.
    pub(crate) room: usize,
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
    /// Two clients, room for one buffer, and nothing else.
    pub(crate) const fn new(events: usize) -> Self {
        Self {
            events,
            clients: 2,
            room: 1,
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

/// What has yet to be tried is looked for so many known steps away, before everything begins anew.
const NEAR: usize = 4;

/// What goes on for so long begins anew, so that whoever reads what went before a failure can.
const LONGEST: usize = 100;

/// Tries all orders of events up to the bound that follow these, those once that come to the same state.
pub(crate) fn explore(
    vendor: Vendor,
    invalidation: Invalidation,
    first: &[&[Event]],
    bound: Bound,
) {
    let first = first.concat();
    let mut search = Search {
        what: (vendor, invalidation),
        first: &first,
        events: all(&bound),
        world: World::start(vendor, invalidation, bound),
        went: Vec::new(),
        graph: Graph::default(),
        here: 0,
        spoilt: 0,
        dead: 0,
        beside: 0,
        lost: 0,
    };
    search.begin();
    while let Some(way) = search.way() {
        let target = way.last().map(|(_, state)| *state);
        if way.into_iter().all(|(step, to)| search.go(step, to)) {
            search.attempt();
        } else if let Some(target) = target {
            search.lost += usize::from(search.graph.miss(target));
        }
    }
    search.end();
    let Search { graph, world, spoilt, dead, beside, lost, .. } = search;
    assert_eq!(spoilt + world.sim().spoilt_frames(), 0, "a free frame was written to");
    assert!(bound.room == 1 || beside > 0, "one of several mappings was never unmapped");
    println!(
        "{vendor:?}, {invalidation:?}, after {}, {bound:?}: {} states, {} steps, {beside} of them unmap one of several, {dead} deaths in their midst, {} orders of events, {lost} states lost",
        first.len(),
        graph.len(),
        graph.steps(),
        graph.orders(bound.events)
    );
}

/// A world, and what was found in it.
struct Search<'a> {
    what: (Vendor, Invalidation),
    first: &'a [Event],
    events: Vec<Event>,
    world: World,
    /// What has happened since it was empty.
    went: Vec<Step>,
    graph: Graph,
    /// The state that it is in.
    here: usize,
    /// How many free frames of machines that are no more were written to.
    spoilt: usize,
    /// How often iommud has died in the midst of something.
    dead: usize,
    /// By how many steps a mapping went of a domain in which others stayed.
    beside: usize,
    /// How many states were not found again, though something was not tried there.
    lost: usize,
}

/// What went before a panic.
struct Went<'a>(&'a [Step]);

impl Drop for Went<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:?}", self.0);
        }
    }
}

impl Search<'_> {
    /// The way to something that was not tried, from here or, where everything has begun anew, from the beginning.
    fn way(&mut self) -> Option<Vec<(Step, usize)>> {
        let events = self.world.bound.events;
        if self.went.len() < LONGEST
            && let Some(way) = self.graph.way_from(self.here, NEAR, events)
        {
            return Some(way);
        }
        let way = self.graph.way(events)?;
        self.end();
        self.begin();
        Some(way)
    }

    /// Everything ends, and nothing is left.
    fn end(&mut self) {
        let went = Went(&self.went);
        self.world.clear(false);
        drop(went);
        self.went.clear();
    }

    /// Everything begins.
    fn begin(&mut self) {
        let (vendor, invalidation) = self.what;
        if self.world.restarts > MOST_RESTARTS {
            self.spoilt += self.world.sim().spoilt_frames();
            self.world = World::start(vendor, invalidation, self.world.bound);
        }
        let mut reached = Vec::new();
        for event in self.first {
            // Some may have happened by itself.
            if self.world.can(*event) {
                (_, reached) = self.happens(Step::from(*event));
            }
        }
        if self.first.is_empty() {
            reached = self.looks();
        }
        self.here = self.state(&reached);
        assert_eq!(self.here, 0, "it begins in another way than before");
    }

    /// Something happens that led there before. Whether it does: of some requests it is not known which of those that a unit
    /// has carried out they wait for. Where it leads elsewhere, it may lead there as well.
    fn go(&mut self, step: Step, to: usize) -> bool {
        let (_, reached) = self.happens(step);
        let state = self.state(&reached);
        if state != to {
            self.graph.lead(self.here, step, state);
        }
        self.here = state;
        state == to
    }

    /// Something happens that was not tried here.
    fn attempt(&mut self) {
        let events = self.world.bound.events;
        let step = self.graph.take(self.here, events).expect("something that was not tried");
        let before = self.world.most_mapped();
        let (has_died, reached) = self.happens(step);
        self.beside += usize::from((1..before).contains(&self.world.most_mapped()));
        if let Some(accesses) = step.dies_after.filter(|_| has_died) {
            self.dead += 1;
            self.graph.put(self.here, Step { dies_after: Some(accesses + 1), ..step });
        }
        let state = self.state(&reached);
        let dies_after = step.dies_after.filter(|_| has_died);
        self.graph.lead(self.here, Step { dies_after, ..step }, state);
        self.here = state;
    }

    /// Whether iommud has died over it, and what devices reach then.
    fn happens(&mut self, step: Step) -> (bool, Vec<Reached>) {
        self.went.push(step);
        let went = Went(&self.went);
        let has_died = self.world.happens(step);
        drop(went);
        (has_died, self.looks())
    }

    fn looks(&mut self) -> Vec<Reached> {
        let went = Went(&self.went);
        let reached = look(&mut self.world);
        let reached = reached.unwrap_or_else(|wrong| panic!("{:?}: {wrong}", self.what));
        drop(went);
        reached
    }

    /// The number of the state that the world is in.
    fn state(&mut self, reached: &[Reached]) -> usize {
        let key = key(&self.world, reached);
        if let Some(state) = self.graph.get(key) {
            return state;
        }
        // In the midst of it after no access, after one, and so on, until iommud is done with it before.
        let may_die = self.world.bound.anywhere && self.world.can(Event::Restart);
        let can = self.events.iter().rev().copied().filter(|it| self.world.can(*it));
        let untried = can.map(|event| {
            let dies_after = (may_die && event.is_iommuds()).then_some(0);
            Step { event, dies_after }
        });
        self.graph.add(key, untried.collect())
    }
}
