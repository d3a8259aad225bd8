//! Daemons that die at each access to tables, registers and frames of an operation, and others that go on with what they
//! left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use dma_types::{Access, Iova};
use iommu_engine::domain::{DomainKey, Place};
use iommu_engine::engine::Engine;
use iommu_engine::engine::adopt::{ClaimedBuffer, Claims, HeldDevice};
use iommu_engine::engine::chain::ChainPiece;
use iommu_engine::platform::{BufferRuns, ConfigSpace, Platform, RunId};
use iommu_engine::policy::Policy;
use iommud::platform::sim::SimPlatform;

use crate::mortal::{Dead, Mortal};
use crate::reach::{Reach, reach};
use crate::rig::{edu, whole};
use crate::vendor::Vendor;

both! {
    r2_r7_a_daemon_dies_anywhere_and_the_next_goes_on,
    #[ignore = "it takes minutes"]
    r2_r7_a_daemon_dies_at_every_access_and_the_next_goes_on,
}

const PAGE: u64 = 4096;

/// The lengths of the runs.
const RUNS: [u64; 4] = [3 * PAGE, 2 << 20, 600 * PAGE, 2 * PAGE];

/// What the daemon does: one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open,
    /// This run, wherever there is room.
    Map(usize),
    /// The last run twice, so far up that tables grow.
    MapFar,
    Unmap(usize),
    MakeDomain,
    Enter,
    MapInside,
    Leave,
    EndDomain,
    Close,
}

const STEPS: [Step; 13] = [
    Step::Open,
    Step::Map(0),
    Step::Map(1),
    Step::Map(2),
    Step::MapFar,
    Step::Unmap(0),
    Step::MakeDomain,
    Step::Enter,
    Step::MapInside,
    Step::Unmap(2),
    Step::Leave,
    Step::EndDomain,
    Step::Close,
];

/// Where a device may be for a moment between two domains, or just come or gone.
fn moves(step: Step) -> bool {
    matches!(step, Step::Open | Step::Enter | Step::Leave | Step::Close)
}

struct World {
    platform: Mortal,
    runs: Vec<RunId>,
    own: Option<DomainKey>,
    explicit: Option<DomainKey>,
    at: [Option<Iova>; RUNS.len()],
    base: u64,
}

impl World {
    fn new(vendor: Vendor) -> (Self, Engine) {
        let mut sim = SimPlatform::with_manual_clock(vendor.machine()).unwrap();
        sim.config_write(edu(), 4, 6);
        let mut platform = Mortal::new(sim);
        let mut engine = Engine::start(&mut platform, Policy::default()).unwrap();
        settle(&mut engine, &mut platform);
        let runs = RUNS.iter().map(|bytes| platform.alloc_run(*bytes).unwrap()).collect();
        let base = engine.units()[0].base.get();
        let at = [None; RUNS.len()];
        (Self { platform, runs, own: None, explicit: None, at, base }, engine)
    }

    /// Takes a step. What it has made is known from when its client would be told, but for what a client has of which the
    /// record is written first.
    fn take(&mut self, engine: &mut Engine, step: Step) {
        let platform = &mut self.platform;
        match step {
            Step::Open => {
                let key = engine.create_domain(platform, &[edu()]).unwrap();
                self.own = Some(key);
                engine.attach(platform, edu(), key).unwrap();
            }
            Step::Map(run) => {
                let spec = whole(self.runs[run], RUNS[run]);
                let (iova, _) = engine.map(platform, self.own.unwrap(), &spec).unwrap();
                self.at[run] = Some(iova);
            }
            Step::MapFar | Step::MapInside => {
                let (key, at) = match step {
                    Step::MapFar => (self.own, 1 << 40),
                    _ => (self.explicit, 0x5000_0000),
                };
                let piece = |offset| {
                    let (run, bytes, access) = (self.runs[3], PAGE, Access::ReadWrite);
                    ChainPiece { run, offset, bytes, access, owner: 4 }
                };
                let place = Place::At { iova: Iova::new(at), limit: Iova::new(u64::MAX) };
                let chain = [piece(PAGE), piece(0)];
                engine.map_chain(platform, key.unwrap(), place, &chain).unwrap();
            }
            Step::Unmap(run) => {
                let iova = self.at[run].unwrap();
                engine.unmap(platform, self.own.unwrap(), iova, RUNS[run]).unwrap();
            }
            Step::MakeDomain => {
                let key = engine.create_explicit_domain(platform, &[edu()], None).unwrap();
                self.explicit = Some(key);
            }
            Step::Enter => {
                engine.transfer(platform, edu(), self.explicit.unwrap()).unwrap();
            }
            Step::Leave => {
                engine.transfer(platform, edu(), self.own.unwrap()).unwrap();
            }
            Step::EndDomain => {
                engine.destroy_domain(platform, self.explicit.take().unwrap()).unwrap();
            }
            Step::Close => {
                let own = self.own.take().unwrap();
                engine.detach(platform, edu()).unwrap();
                engine.destroy_domain(platform, own).unwrap();
            }
        }
        engine.poll(platform);
    }

    fn reach(&mut self, vendor: Vendor) -> Reach {
        reach(&mut self.platform.sim, vendor, self.base, edu())
    }

    /// What the service has records of.
    fn claims(&self) -> Claims {
        let held = self.own.map(|own| HeldDevice { device: edu(), own });
        let domains: Vec<_> = self.own.into_iter().chain(self.explicit).collect();
        let buffers = self.runs.iter().enumerate().map(|(index, run)| ClaimedBuffer {
            number: if index == 3 { 4 } else { 1 },
            run: *run,
            place: self.platform.sim.place(*run).unwrap(),
            bytes: RUNS[index],
            domains: domains.clone(),
            first: None,
        });
        Claims {
            held: held.into_iter().collect(),
            blocked: Vec::new(),
            explicit: self.explicit.into_iter().collect(),
            buffers: buffers.collect(),
            windows: Vec::new(),
        }
    }
}

fn settle(engine: &mut Engine, platform: &mut Mortal) {
    while !engine.is_settled() {
        platform.sim.advance_time(Duration::from_micros(10));
        engine.poll(platform);
    }
    engine.poll(platform);
}

/// Ends everything that there is: how many frames are in use then.
fn end_all(engine: &mut Engine, platform: &mut Mortal) -> usize {
    let domains: Vec<_> = engine.domains().map(|(key, _)| key).collect();
    for key in &domains {
        let domain = engine.domain(*key).unwrap();
        let mapped: Vec<_> =
            domain.mappings().map(|(iova, mapping)| (iova, mapping.bytes)).collect();
        for (iova, bytes) in mapped {
            engine.unmap(platform, *key, iova, bytes).unwrap();
        }
    }
    let _ = engine.detach(platform, edu());
    for key in domains {
        engine.destroy_domain(platform, key).unwrap();
    }
    engine.hasten(platform, &engine.owed_to(|_| true));
    assert_eq!(engine.retired(), 0);
    platform.sim.usage().live_frames
}

fn r2_r7_a_daemon_dies_anywhere_and_the_next_goes_on(vendor: Vendor) {
    let deaths = die(vendor, 13);
    assert!(deaths > 50, "{deaths}");
}

fn r2_r7_a_daemon_dies_at_every_access_and_the_next_goes_on(vendor: Vendor) {
    let deaths = die(vendor, 1);
    println!("{deaths} deaths");
    assert!(deaths > 600, "{deaths}");
}

/// Has daemons die at each so manyth access of each step: how many that are.
fn die(vendor: Vendor, stride: usize) -> usize {
    let mut deaths = 0;
    // What there is before and after each step, and how many frames are in use when all of that has ended.
    let plain: Vec<(Reach, usize)> = (0..=STEPS.len())
        .map(|steps| {
            let (mut world, mut engine) = World::new(vendor);
            STEPS[..steps].iter().for_each(|step| world.take(&mut engine, *step));
            (world.reach(vendor), end_all(&mut engine, &mut world.platform))
        })
        .collect();
    for (index, step) in STEPS.into_iter().enumerate() {
        for accesses in (index % stride..).step_by(stride) {
            let (mut world, mut engine) = World::new(vendor);
            STEPS[..index].iter().for_each(|step| world.take(&mut engine, *step));
            world.platform.left.set(Some(accesses as u64));
            let died = catch_unwind(AssertUnwindSafe(|| world.take(&mut engine, step)));
            world.platform.left.set(None);
            match died {
                Ok(()) => break,
                Err(why) => assert!(why.is::<Dead>(), "{step:?} after {accesses}"),
            }
            deaths += 1;
            let what = format!("{step:?} after {accesses} accesses");
            let claims = world.claims();
            let before = world.reach(vendor);
            drop(engine);
            world.platform.sim.inherit();
            let adopted = Engine::adopt(&mut world.platform, Policy::default(), &claims);
            let mut engine = adopted.unwrap_or_else(|error| panic!("{what}: {error}"));
            let now = world.reach(vendor);
            let is_more = |it: (&u64, &(u64, bool, bool))| before.get(it.0) != Some(it.1);
            // What was entered whole in a table that has grown is reached when the unit is told of the root.
            let finishes = moves(step) || step == Step::MapFar;
            assert!(finishes || !now.iter().any(is_more), "{what}");
            settle(&mut engine, &mut world.platform);
            assert!(!world.platform.inherited(), "{what}");
            let after = world.reach(vendor);
            assert_eq!(after, now, "{what}");
            let [(old, old_frames), (new, new_frames)] = [&plain[index], &plain[index + 1]];
            let untouched = old.iter().filter(|it| new.get(it.0) == Some(it.1));
            assert!(
                moves(step) || untouched.clone().all(|it| after.get(it.0) == Some(it.1)),
                "{what}"
            );
            let is_known = |it: (&u64, &(u64, bool, bool))| {
                [old, new].into_iter().any(|known| known.get(it.0) == Some(it.1))
            };
            assert!(after.iter().all(is_known), "{what}");
            // All that is reached is somebody's, and can be unmapped.
            let attached = engine.group(edu()).and_then(|group| group.attached);
            let mapped = attached.and_then(|key| engine.domain(key)).map(|it| it.mapped_bytes());
            assert_eq!(mapped.unwrap_or(0), after.len() as u64 * PAGE, "{what}");
            let frames = end_all(&mut engine, &mut world.platform);
            assert!([*old_frames, *new_frames].contains(&frames), "{what}: {frames} frames");
            assert!(world.reach(vendor).is_empty(), "{what}");
            let usage = world.platform.sim.usage();
            assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0), "{what}");
            assert_eq!(usage.live_runs, RUNS.len(), "{what}");
            assert_eq!(world.platform.sim.machine().violations(), Vec::<String>::new(), "{what}");
        }
    }
    deaths
}
