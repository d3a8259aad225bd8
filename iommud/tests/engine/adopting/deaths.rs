//! Deaths, and what must hold after each of them.

use std::rc::Rc;

use iommu_engine::engine::Engine;
use iommu_engine::platform::Platform;
use iommud::platform::sim::SimPlatform;

use super::world::{Case, Made, RUNS, Step, end_all, settle};
use crate::reach::{Reach, Reached, is_so, reach};
use crate::watched::Watched;

/// How many deaths there were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deaths {
    /// At a store.
    pub(super) stores: usize,
    /// At another event.
    pub(super) others: usize,
    /// While another's tables were adopted.
    pub(super) adopting: usize,
}

impl Deaths {
    pub(super) fn all(&self) -> usize {
        self.stores + self.others + self.adopting
    }

    fn count(&mut self, platform: &Watched) {
        match platform.died_storing() {
            true => self.stores += 1,
            false => self.others += 1,
        }
    }
}

/// Which deaths are tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tried {
    /// The first step, and then each so manyth.
    pub(super) steps: (usize, usize),
    /// Each so manyth event of them.
    pub(super) stride: usize,
    /// How many successors of each die, too, at events by chance.
    pub(super) successors: usize,
    /// Whether the reach is looked at before each access of a successor that lives.
    pub(super) looks: bool,
}

/// What there is before or after a step that nobody dies of.
struct Plain {
    reach: Vec<Reach>,
    /// How many frames are in use when all of that has ended.
    frames: usize,
}

/// Has daemons die in each step of a case.
pub(super) fn die(case: &Case, tried: Tried) -> Deaths {
    let mut deaths = Deaths::default();
    let plain: Vec<Plain> = (0..=case.steps.len()).map(|steps| plain(case, steps)).collect();
    let (first, each) = tried.steps;
    for (index, step) in case.steps.iter().enumerate().skip(first).step_by(each) {
        for events in (index % tried.stride..).step_by(tried.stride) {
            let mut left = Left::after(case, index, events as u64);
            if left.is_none_left {
                break;
            }
            deaths.count(&left.platform);
            let what = format!("{step:?} after {events} events");
            left.succeed(
                case,
                (*step, [&plain[index], &plain[index + 1]]),
                tried,
                &mut deaths,
                &what,
            );
        }
    }
    deaths
}

fn plain(case: &Case, steps: usize) -> Plain {
    let (mut platform, mut engine, mut made) = Made::start(case);
    for step in &case.steps[..steps] {
        made.take(case, &mut platform, &mut engine, *step);
    }
    let reach = case.reach(&platform.sim);
    Plain { reach, frames: end_all(case, &mut engine, &mut platform) }
}

/// What devices may reach from a death on.
struct May {
    before: Vec<Reach>,
    /// What they reach before the step and after it.
    known: [Vec<Reach>; 2],
    /// Whether the step is [such a one](Step::moves).
    moves: bool,
    /// Whether the step may be done to its end.
    finishes: bool,
}

impl May {
    /// No more than at the death, but for a step that is done to its end, and no less than what the step leaves alone.
    fn judge(&self, device: usize, now: &Reach, what: &str) {
        let [old, new] = self.known.each_ref().map(|known| &known[device]);
        let is_right = |[now, old, new, before]: [Option<Reached>; 4]| {
            let is_done = self.finishes && (now == old || now == new);
            let is_no_more = now.is_none() || now == before || is_done;
            is_no_more && (self.moves || old != new || now == old)
        };
        assert!(is_so([now, old, new, &self.before[device]], is_right), "{what}: {now:x?}");
    }
}

/// What a daemon has left.
struct Left {
    platform: Watched,
    made: Made,
    /// It has not died.
    is_none_left: bool,
}

impl Left {
    /// Has a daemon take so many steps, and die in the next after so many events.
    fn after(case: &Case, steps: usize, events: u64) -> Self {
        let (mut platform, mut engine, mut made) = Made::start(case);
        for step in &case.steps[..steps] {
            made.take(case, &mut platform, &mut engine, *step);
            made.keep_busy(case, &mut platform);
        }
        let step = case.steps[steps];
        let lived = platform.live(events, |platform| {
            made.take(case, platform, &mut engine, step);
        });
        Self { platform, made, is_none_left: lived.is_some() }
    }

    /// Has successors go on with it: the last of them lives, and then ends all.
    fn succeed(
        &mut self,
        case: &Case,
        (step, [old, new]): (Step, [&Plain; 2]),
        tried: Tried,
        deaths: &mut Deaths,
        what: &str,
    ) {
        let mut what = what.to_owned();
        let before = case.reach(&self.platform.sim);
        for successor in 0..if case.is_long { 0 } else { tried.successors } {
            // By chance, and the same each time.
            let events = (deaths.all() * 7919 + successor * 104_729) % 90;
            if self.adopt(case, events as u64, &what).is_some() {
                break;
            }
            deaths.adopting += 1;
            what += &format!(", the next after {events}");
        }
        let may = Rc::new(May {
            before: before.clone(),
            known: [old, new].map(|plain| plain.reach.clone()),
            moves: step.moves(),
            // What was entered whole in a table that has grown is reached when the unit is told of the root, and what is not
            // confined reaches memory that is free.
            finishes: step.moves() || matches!(step, Step::MapFar | Step::Allocate | Step::Free),
        });
        if tried.looks && !case.is_long {
            let (may, devices) = (may.clone(), case.devices.clone());
            let (vendor, what) = (case.vendor, what.clone());
            self.platform.fate.look = Some(Box::new(move |sim: &SimPlatform| {
                for (index, (_, requester, base)) in devices.iter().enumerate() {
                    may.judge(index, &reach(sim, vendor, *base, *requester), &what);
                }
            }));
        }
        let mut engine = self.adopt(case, u64::MAX, &what).unwrap_or_else(|| panic!("{what}"));
        self.platform.fate.look = None;
        let after = case.reach(&self.platform.sim);
        for (device, after) in after.iter().enumerate() {
            may.judge(device, after, &what);
            let known = [&old.reach[device], &new.reach[device]];
            let is_known = |[after, old, new]: [Option<Reached>; 3]| {
                after.is_none() || after == old || after == new
            };
            assert!(is_so([after, known[0], known[1]], is_known), "{what}");
            self.hardware_agrees(case, device, [&before[device], after], &what);
            // All that is reached is somebody's, and can be unmapped.
            let group = engine.group(case.devices[device].0);
            let attached = group.and_then(|group| group.attached);
            let mapped = attached.and_then(|key| engine.domain(key)).map(|it| it.mapped_bytes());
            assert_eq!(mapped.unwrap_or(0), after.bytes(), "{what}");
        }
        let platform = &mut self.platform;
        assert!(!platform.sim.inherited(), "{what}");
        let frames = end_all(case, &mut engine, platform);
        assert!([old.frames, new.frames].contains(&frames), "{what}: {frames} frames");
        let usage = platform.sim.usage();
        assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0), "{what}");
        let runs = RUNS.len() + self.made.extra();
        assert_eq!(usage.live_runs, runs, "{what}");
        assert_eq!(platform.sim.machine().violations(), Vec::<String>::new(), "{what}");
    }

    /// Has the next daemon adopt it, and die after so many events. `None` if it did.
    fn adopt(&mut self, case: &Case, events: u64, what: &str) -> Option<Engine> {
        let platform = &mut self.platform;
        platform.sim.inherit();
        let owners = self.made.owners(case);
        platform.live(events, |platform| {
            let adopted = Engine::adopt(platform, case.policy.clone(), &owners);
            let mut engine = adopted.unwrap_or_else(|error| panic!("{what}: {error}"));
            settle(&mut engine, platform);
            engine
        })
    }

    /// Devices reach what the tables say, and nothing that is cached from before.
    fn hardware_agrees(&mut self, case: &Case, device: usize, reaches: [&Reach; 2], what: &str) {
        let (device, ..) = case.devices[device];
        let starts = reaches.into_iter().flat_map(Reach::starts).collect::<Vec<_>>();
        for iova in starts {
            let written = self.platform.sim.machine_mut().dma_write_unasked(device, iova, &[0; 4]);
            let reached = reaches[1].at(iova).is_some_and(|(_, _, write)| write);
            let is_by_tables = matches!(&written, Err(why) if why.is_by_tables());
            assert_eq!(is_by_tables, !reached, "{what}: {iova:#x}");
        }
    }
}
