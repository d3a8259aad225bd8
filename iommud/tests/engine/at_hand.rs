//! Maps and unmaps at hand beside the general ways: the same steps come to the same by either (R2, R7).
//!
//! The engine takes the general way while units have yet to be told of something, of whatever domain. So the same steps are made
//! on two machines that are alike, in one of which another device's unmaps wait all the time, behind a unit of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use dma_types::{Access, Iova};
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::domain::{DomainKey, Mapping, Place};
use iommu_engine::engine::MapSpec;
use iommu_engine::engine::chain::ChainPiece;
use iommu_engine::payer::{Payer, Purse};
use iommu_engine::platform::{ConfigSpace, RunId};
use iommu_engine::policy::{Devices, Invalidation, Policy, Rule};
use iommu_sim::MachineConfig;
use iommu_sim::pace::{Completion as Takes, Health};
use proptest::prelude::*;

use crate::rig::{Rig, edu, other, whole};
use crate::vendor::{Vendor, slow};

both! {
    r2_r7_what_is_at_hand_is_done_as_anything_else,
}

const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;

/// Where pages are for all: addresses are short there, so that large pages come where tables were.
const FEW: (u64, u64) = (0x4000_0000, 0x4000_0000 + 6 * LARGE - 1);

#[derive(Clone, Debug)]
enum Step {
    Map {
        payer: u64,
        /// Of memory in large pages, or in single ones.
        in_large: bool,
        offset: u64,
        pages: u64,
        align: u64,
        bounds: (u64, u64),
        access: Access,
        /// How many frames of tables the payer may take.
        frames: u64,
    },
    Chain {
        payer: u64,
        lengths: Vec<u64>,
        at: Option<u64>,
        frames: u64,
    },
    /// One mapping, of so many, which is this payer's, or nobody may.
    Unmap {
        which: usize,
        payer: u64,
    },
    UnmapSome {
        which: usize,
        count: usize,
    },
    UnmapWrongly {
        which: usize,
        more: i64,
    },
    GiveUp {
        payer: u64,
    },
    Pass {
        micros: u64,
    },
    /// The device out of the domain, or in again.
    Move,
    /// The unit in front of it is gone, and given up or not yet.
    Vanish {
        is_noticed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    // What is at hand is what the one before was, most often.
    let pages = prop_oneof![8 => Just(1), 3 => 2..40u64, 3 => 511..514u64, 1 => Just(1024)];
    let bounds = prop_oneof![
        12 => Just(FEW),
        1 => Just((FEW.0, FEW.0 + 3 * LARGE - 1)),
        1 => Just((0, u64::MAX)),
        1 => Just((0, 0xffff_ffff)),
    ];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::ReadWrite)];
    let frames = prop_oneof![6 => Just(16), 1 => 0..4u64];
    let align = prop_oneof![8 => Just(0), 1 => Just(PAGE), 1 => Just(LARGE)];
    let map = (0..2u64, any::<bool>(), 0..3u64, pages, align, bounds, access, frames.clone());
    let lengths = prop::collection::vec(prop_oneof![5 => 1..4u64, 1 => Just(512)], 1..6);
    let at = prop_oneof![2 => Just(None), 1 => (0..3000u64).prop_map(Some)];
    let chain = (0..2u64, lengths, at, frames);
    let which = any::<usize>();
    prop_oneof![
        12 => map.prop_map(|(payer, in_large, offset, pages, align, bounds, access, frames)| {
            Step::Map { payer, in_large, offset, pages, align, bounds, access, frames }
        }),
        3 => chain.prop_map(|(payer, lengths, at, frames)| Step::Chain { payer, lengths, at, frames }),
        12 => (which, 0..16u64).prop_map(|(which, payer)| Step::Unmap { which, payer }),
        5 => (which, 1..6usize).prop_map(|(which, count)| Step::UnmapSome { which, count }),
        1 => (which, -1..2i64).prop_map(|(which, more)| Step::UnmapWrongly { which, more }),
        1 => (0..2u64).prop_map(|payer| Step::GiveUp { payer }),
        4 => (0..80u64).prop_map(|micros| Step::Pass { micros }),
        1 => Just(Step::Move),
    ]
}

/// Some steps, and in some cases the unit vanishes.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let steps = prop::collection::vec(step(), 1..60);
    let vanishes = prop_oneof![3 => Just(None), 1 => any::<bool>().prop_map(Some)];
    (steps, any::<prop::sample::Index>(), vanishes).prop_map(|(mut steps, place, vanishes)| {
        let step = vanishes.map(|is_noticed| Step::Vanish { is_noticed });
        let place = place.index(steps.len());
        steps.splice(place..place, step);
        steps
    })
}

/// What one step has come to.
#[derive(Clone, Debug, PartialEq)]
enum Came {
    /// To this, and whether units have confirmed it.
    Done(Vec<u64>, bool),
    Refused(String),
}

/// What there is after it.
#[derive(Debug, PartialEq)]
struct State {
    mappings: Vec<(Iova, Mapping)>,
    leads: Vec<Option<(u64, Access, u64)>>,
    taken: (u64, u64),
    frames: usize,
    waiting: Vec<(Iova, u64)>,
    accounts: BTreeMap<Payer, [i64; 3]>,
}

/// One of the machines.
struct Side {
    rig: Rig,
    domain: DomainKey,
    runs: [RunId; 2],
    /// Where unmaps wait, if any do.
    elsewhere: Option<(DomainKey, RunId)>,
    is_inside: bool,
    /// Whether its unit is gone. A device behind one that was given up masters the bus no more.
    is_lost: bool,
    live: Vec<(Iova, u64, u64, Access)>,
    /// What was mapped or unmapped, until units have confirmed it.
    open: Vec<(Completion, Vec<(Iova, u64)>)>,
    accounts: BTreeMap<Payer, [i64; 3]>,
}

impl Side {
    fn new(config: MachineConfig, is_general: bool) -> Self {
        let gathers =
            Rule { invalidation: Some(Invalidation::Deferred), ..Rule::new(Devices::At(other())) };
        let policy = Policy { rules: vec![gathers], ..Policy::default() };
        let mut rig = Rig::with_policy(config, policy);
        // Scattered where it is not large pages.
        let runs = [rig.run(1100 * PAGE), rig.run(4 * LARGE)];
        let domain = rig.attach(edu());
        let elsewhere = is_general.then(|| (rig.attach(other()), rig.run(PAGE)));
        let (live, open, accounts) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { rig, domain, runs, elsewhere, is_inside: true, is_lost: false, live, open, accounts }
    }

    fn take(&mut self, step: &Step) -> Came {
        if let Some((domain, run)) = self.elsewhere {
            let Rig { platform, engine } = &mut self.rig;
            let (iova, _) = engine.map(platform, domain, &whole(run, PAGE)).unwrap();
            let gathered = engine.unmap(platform, domain, iova, PAGE).unwrap();
            assert_eq!(engine.progress(&gathered), Progress::Pending);
        }
        let came = self.make(step);
        self.settle();
        came
    }

    fn make(&mut self, step: &Step) -> Came {
        let Self { rig: Rig { platform, engine }, domain, runs, live, is_inside, .. } = self;
        let domain = *domain;
        match *step {
            Step::Map { payer, in_large, offset, pages, align, bounds, access, frames } => {
                let payer = Payer(payer + 1);
                let purse = Purse { payer, client: payer, frames };
                let (bytes, run) = (pages * PAGE, runs[usize::from(in_large)]);
                let align = if align == 0 { bytes.next_power_of_two() } else { align };
                let (first, limit) = (Iova::new(bounds.0), Iova::new(bounds.1));
                let (offset, owner) = (offset * PAGE, payer.0);
                let spec = MapSpec { run, offset, bytes, access, align, first, limit, owner };
                match engine.on_account(purse, |engine| engine.map(platform, domain, &spec)) {
                    Ok((iova, completion)) => {
                        live.push((iova, bytes, owner, access));
                        self.came(completion, vec![(iova, bytes)])
                    }
                    Err(error) => Came::Refused(format!("{error:?}")),
                }
            }
            Step::Chain { payer, ref lengths, at, frames } => {
                let payer = Payer(payer + 1);
                let purse = Purse { payer, client: payer, frames };
                let (run, access, owner) = (runs[0], Access::ReadWrite, payer.0);
                let piece = |pages: &u64| ChainPiece {
                    run,
                    offset: PAGE,
                    bytes: pages * PAGE,
                    access,
                    owner,
                };
                let chain: Vec<ChainPiece> = lengths.iter().map(piece).collect();
                let (first, limit) = (Iova::new(FEW.0), Iova::new(FEW.1));
                let place = match at {
                    Some(page) => Place::At { iova: Iova::new(FEW.0 + page * PAGE), limit },
                    None => Place::Anywhere { align: PAGE, first, limit },
                };
                let mapped = engine
                    .on_account(purse, |engine| engine.map_chain(platform, domain, place, &chain));
                match mapped {
                    Ok((start, completion)) => {
                        let mut iova = start;
                        for piece in &chain {
                            live.push((iova, piece.bytes, owner, access));
                            iova = Iova::new(iova.get() + piece.bytes);
                        }
                        let all = live[live.len() - chain.len()..].iter();
                        let all = all.map(|it| (it.0, it.1)).collect();
                        self.came(completion, all)
                    }
                    Err(failed) => Came::Refused(format!("{:?}", failed.error)),
                }
            }
            Step::Unmap { which, payer } if !live.is_empty() => {
                let which = which % live.len();
                let (iova, bytes, ..) = live[which];
                // Of one in sixteen it is not the right one who asks.
                let is_its = |mapping: &Mapping| mapping.payer != Payer(payer);
                let strict = Invalidation::Strict;
                match engine.unmap_if(platform, domain, iova, bytes, strict, is_its) {
                    Ok(completion) => {
                        live.remove(which);
                        self.came(completion, vec![(iova, bytes)])
                    }
                    Err(error) => Came::Refused(format!("{error:?}")),
                }
            }
            Step::UnmapSome { which, count } if !live.is_empty() => {
                let which = which % live.len();
                let end = (which + count).min(live.len());
                let ranges: Vec<(Iova, u64)> =
                    live[which..end].iter().map(|it| (it.0, it.1)).collect();
                let some = ranges.iter().copied();
                let unmapped = engine.unmap_all(platform, domain, some, Invalidation::Strict);
                live.drain(which..end);
                self.came(unmapped.unwrap(), ranges)
            }
            Step::UnmapWrongly { which, more } if !live.is_empty() => {
                let (iova, bytes, ..) = live[which % live.len()];
                let [at, bytes] = match more {
                    0 => [iova.get() + PAGE, bytes],
                    more => [iova.get(), bytes.wrapping_add_signed(more * PAGE as i64)],
                };
                let refused = engine.unmap(platform, domain, Iova::new(at), bytes);
                match live.iter().any(|it| (it.0.get(), it.1) == (at, bytes)) {
                    // It is another.
                    true => {
                        live.retain(|it| it.0.get() != at);
                        self.came(refused.unwrap(), vec![(Iova::new(at), bytes)])
                    }
                    false => Came::Refused(format!("{:?}", refused.unwrap_err())),
                }
            }
            Step::GiveUp { payer } => {
                engine.give_up_empty_tables(platform, |other| other == Payer(payer + 1));
                Came::Done(Vec::new(), true)
            }
            Step::Pass { micros } => {
                self.rig.pass(Duration::from_micros(micros));
                Came::Done(Vec::new(), true)
            }
            Step::Move => {
                let moved = match is_inside {
                    true => engine.detach(platform, edu()),
                    false => engine.attach(platform, edu(), domain),
                };
                match moved {
                    Ok(completion) => {
                        *is_inside = !*is_inside;
                        // Whoever is cut off masters the bus no more, until its driver turns that on.
                        platform.config_write(edu(), 4, 6);
                        self.came(completion, vec![(Iova::new(0), u64::MAX)])
                    }
                    Err(error) => Came::Refused(format!("{error:?}")),
                }
            }
            Step::Vanish { is_noticed } => {
                // The first is the other device's.
                platform.machine_mut().set_health(1, Health::AllOnes);
                self.is_lost = true;
                let longer_than_it_may_take = Duration::from_secs(u64::from(is_noticed) * 5);
                self.rig.pass(longer_than_it_may_take);
                Came::Done(Vec::new(), true)
            }
            Step::Unmap { .. } | Step::UnmapSome { .. } | Step::UnmapWrongly { .. } => {
                Came::Refused("there is none".into())
            }
        }
    }

    fn came(&mut self, completion: Completion, all: Vec<(Iova, u64)>) -> Came {
        let is_done = self.rig.engine.progress(&completion) == Progress::Done;
        let which = all.iter().map(|it| it.0.get()).collect();
        self.open.push((completion, all));
        Came::Done(which, is_done)
    }

    /// Takes note of what is confirmed, and of what has come to accounts.
    fn settle(&mut self) {
        let engine = &mut self.rig.engine;
        self.open.retain(|(completion, _)| engine.progress(completion) != Progress::Done);
        for (payer, turned) in std::iter::from_fn(|| engine.take_turnover()) {
            let sum = self.accounts.entry(payer).or_default();
            *sum = [sum[0] + turned.frames, sum[1] + turned.iova_bytes, sum[2] + turned.operations];
        }
    }

    /// What is there, once no account has anything that went as it came.
    fn state(&self) -> State {
        let Self { rig: Rig { platform, engine }, domain, .. } = self;
        let it = engine.domain(*domain).unwrap();
        let mappings: Vec<(Iova, Mapping)> = it.mappings().collect();
        let pages = mappings.iter().flat_map(|(iova, mapping)| {
            (0..mapping.bytes / PAGE).map(|page| Iova::new(iova.get() + page * PAGE))
        });
        let leads = pages.map(|page| {
            let leads = it.translate(platform, page)?;
            Some((leads.phys.get(), leads.access, leads.page_bytes))
        });
        let mut waiting: Vec<(Iova, u64)> = engine
            .retired_list()
            .filter_map(|retired| retired.range.filter(|range| range.0 == *domain))
            .map(|(_, iova, bytes)| (iova, bytes))
            .collect();
        waiting.sort_unstable();
        let of_both = |(payer, sum): (&Payer, &[i64; 3])| (*payer, *sum);
        let accounts = self.accounts.iter().filter(|it| *it.1 != [0; 3]).map(of_both);
        State {
            leads: leads.collect(),
            mappings,
            taken: it.taken_addresses(),
            frames: it.frames(platform).len(),
            waiting,
            accounts: accounts.collect(),
        }
    }

    /// The device reaches what is mapped as it may, and nothing else of what ever was.
    fn look(&mut self, ever: &[(Iova, u64)]) {
        let holds =
            |start: Iova, bytes: u64, at: u64| start.get() <= at && at - start.get() < bytes;
        let Self { rig, live, open, is_inside, .. } = self;
        if self.is_lost {
            return;
        }
        let is_open = |at| open.iter().flat_map(|it| &it.1).any(|it| holds(it.0, it.1, at));
        for (iova, bytes, _, access) in &*live {
            for at in [iova.get(), iova.get() + bytes - 8].into_iter().filter(|at| !is_open(*at)) {
                let (may_read, may_write) =
                    (*is_inside && access.may_read(), *is_inside && access.may_write());
                assert_eq!(rig.write(at, &[7]).is_ok(), may_write, "{at:#x}");
                assert_eq!(rig.read(at, 8).is_ok(), may_read, "{at:#x}");
            }
        }
        for at in ever.iter().flat_map(|(iova, bytes)| [iova.get(), iova.get() + bytes - PAGE]) {
            let is_mapped = live.iter().any(|it| holds(it.0, it.1, at));
            assert!(is_mapped || is_open(at) || rig.read(at, 8).is_err(), "{at:#x} is gone");
        }
    }
}

/// A machine of whose units one is edu's: with units as they may be.
fn machine(vendor: Vendor, (absent, coherent, nanos): (bool, bool, u64)) -> MachineConfig {
    let mut config = vendor.two_units();
    for unit in &mut config.units {
        (unit.vtd.caching_mode, unit.vtd.coherent) = (absent, coherent);
    }
    for unit in &mut config.amdvi_units {
        (unit.amdvi.np_cache, unit.amdvi.coherent) = (absent, coherent);
    }
    slow(config, if nanos == 0 { Takes::Immediate } else { Takes::After(nanos) })
}

fn r2_r7_what_is_at_hand_is_done_as_anything_else(vendor: Vendor) {
    let knobs = (any::<bool>(), any::<bool>(), prop_oneof![2 => Just(0), 1 => 1..60_000u64]);
    proptest!(ProptestConfig::with_cases(12), |(knobs in knobs, steps in steps())| {
        let config = || machine(vendor, knobs);
        let mut sides = [Side::new(config(), false), Side::new(config(), true)];
        let mut ever = Vec::new();
        for step in &steps {
            let [came, as_ever] = sides.each_mut().map(|side| side.take(step));
            prop_assert_eq!(came, as_ever, "{:?}", step);
            let [state, expected] = sides.each_ref().map(Side::state);
            prop_assert_eq!(state, expected, "{:?}", step);
            ever.extend(sides[0].live.iter().map(|it| (it.0, it.1)));
            ever.sort_unstable();
            ever.dedup();
            sides.iter_mut().for_each(|side| side.look(&ever));
        }
        sides.iter().for_each(|side| side.rig.check());
    });
}
