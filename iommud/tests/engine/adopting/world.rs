//! A machine, and a daemon on it that takes steps.

use std::time::Duration;

use dma_types::{Access, Iova, PciAddress};
use iommu_engine::domain::{DomainKey, Place};
use iommu_engine::engine::Engine;
use iommu_engine::engine::adopt::{BlockedDevice, HeldDevice, OwnedBuffer, Owners};
use iommu_engine::engine::chain::ChainPiece;
use iommu_engine::platform::{BufferRuns, ConfigSpace, Platform, RunId, RunPlace};
use iommu_engine::policy::Policy;
use iommu_sim::MachineConfig;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::Timing;
use iommud::platform::sim::SimPlatform;

use crate::reach::{Reach, reach};
use crate::rig::{edu, whole};
use crate::vendor::{Vendor, slow_down};
use crate::watched::Watched;

pub(super) const PAGE: u64 = 4096;

/// The lengths of the runs.
pub(super) const RUNS: [u64; 5] = [3 * PAGE, 2 << 20, 600 * PAGE, 2 * PAGE, PAGE];

/// The run of which there are two pieces wherever it is mapped, each a mapping of its own.
const PIECES: usize = 3;

/// What the daemon does: one after the other. Devices and runs are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Open(usize),
    /// This run, wherever there is room.
    Map(usize),
    /// The run of pieces, so far up that tables grow.
    MapFar,
    Unmap(usize),
    /// A domain for all devices.
    MakeDomain,
    Enter(usize),
    MapInside,
    UnmapInside,
    Leave(usize),
    EndDomain,
    Block(usize),
    Unblock(usize),
    /// A run more, which is kept from what is not confined.
    Allocate,
    Free,
    Close(usize),
}

/// What a daemon does with one device.
pub(super) const ALONE: &[Step] = &[
    Step::Open(0),
    Step::Map(0),
    Step::Map(1),
    Step::Map(2),
    Step::MapFar,
    Step::Unmap(0),
    Step::MakeDomain,
    Step::Enter(0),
    Step::MapInside,
    Step::Unmap(2),
    Step::Leave(0),
    Step::EndDomain,
    Step::Close(0),
];

/// The same in short: where a variant differs otherwise.
pub(super) const BRIEFLY: &[Step] = &[
    Step::Open(0),
    Step::Map(0),
    Step::Map(1),
    Step::MapFar,
    Step::MakeDomain,
    Step::Enter(0),
    Step::MapInside,
    Step::Unmap(0),
    Step::Leave(0),
    Step::EndDomain,
    Step::Close(0),
];

/// What a daemon does with two devices.
pub(super) const TOGETHER: &[Step] = &[
    Step::Open(0),
    Step::Open(1),
    Step::Map(0),
    Step::Map(1),
    Step::MakeDomain,
    Step::Enter(0),
    Step::Enter(1),
    Step::MapInside,
    Step::UnmapInside,
    Step::Leave(1),
    Step::Leave(0),
    Step::EndDomain,
    Step::Close(1),
    Step::Close(0),
];

impl Step {
    /// Whether a device may be for a moment between two domains, or just come or gone.
    pub(super) fn moves(self) -> bool {
        use Step::*;
        matches!(self, Open(_) | Enter(_) | Leave(_) | Close(_) | Block(_) | Unblock(_))
    }
}

/// A machine and what is done on it.
pub(super) struct Case {
    pub(super) vendor: Vendor,
    pub(super) machine: MachineConfig,
    pub(super) policy: Policy,
    /// Each device with the requester as which it signs, and the registers of the unit that it is behind.
    pub(super) devices: Vec<(PciAddress, PciAddress, u64)>,
    pub(super) steps: &'static [Step],
    /// How long units take to forget; their devices are at work all the time then.
    pub(super) busy: Option<Takes>,
    /// Whether units are told so much at the start that only the first daemon dies, and nobody looks on.
    pub(super) is_long: bool,
}

impl Case {
    /// One device behind one unit, which is idle.
    pub(super) fn new(vendor: Vendor, machine: MachineConfig, steps: &'static [Step]) -> Self {
        let devices = vec![(edu(), edu(), vendor.base())];
        Self {
            vendor,
            machine,
            policy: Policy::default(),
            devices,
            steps,
            busy: None,
            is_long: false,
        }
    }

    /// What each device reaches by the tables.
    pub(super) fn reach(&self, sim: &SimPlatform) -> Vec<Reach> {
        let devices = self.devices.iter();
        devices.map(|(_, requester, base)| reach(sim, self.vendor, *base, *requester)).collect()
    }
}

/// What there is, as the service has it written down.
#[derive(Default)]
pub(super) struct Made {
    runs: Vec<(RunId, RunPlace)>,
    own: Vec<Option<DomainKey>>,
    blocked: Vec<bool>,
    explicit: Option<DomainKey>,
    /// Where each run is mapped.
    at: Vec<Option<Iova>>,
    extra: Option<(RunId, RunPlace)>,
}

impl Made {
    /// A machine with the daemon up, and the runs, of which nothing is mapped.
    pub(super) fn start(case: &Case) -> (Watched, Engine, Self) {
        let mut sim = SimPlatform::with_manual_clock(case.machine.clone()).unwrap();
        for (device, ..) in &case.devices {
            sim.config_write(*device, 4, 6);
        }
        let mut platform = Watched::watched(sim);
        let mut engine = Engine::start(&mut platform, case.policy.clone()).unwrap();
        settle(&mut engine, &mut platform);
        if let Some(takes) = case.busy {
            slow_down(&mut platform.sim.machine_mut(), takes);
            if let Some(unit) = platform.sim.machine_mut().unit_mut(0) {
                unit.set_timing(Timing { registers: takes, queue: takes, commands: takes });
            }
        }
        let runs = RUNS.map(|bytes| platform.alloc_run(bytes).unwrap());
        let runs = runs.map(|run| (run, platform.place(run).unwrap())).to_vec();
        let devices = case.devices.len();
        let made = Self {
            runs,
            own: vec![None; devices],
            blocked: vec![false; devices],
            at: vec![None; RUNS.len()],
            ..Self::default()
        };
        engine.poll(&mut platform);
        (platform, engine, made)
    }

    /// Takes a step. What it has made is known from when its client would be told, but for what a client has of which the
    /// record is written first.
    pub(super) fn take(
        &mut self,
        case: &Case,
        platform: &mut Watched,
        engine: &mut Engine,
        step: Step,
    ) {
        let device = |index: usize| case.devices[index].0;
        let own = self.own.first().copied().flatten();
        match step {
            Step::Open(index) => {
                let key = engine.create_domain(platform, &[device(index)]).unwrap();
                self.own[index] = Some(key);
                engine.attach(platform, device(index), key).unwrap();
            }
            Step::Map(run) => {
                let spec = whole(self.runs[run].0, RUNS[run]);
                let (iova, _) = engine.map(platform, own.unwrap(), &spec).unwrap();
                self.at[run] = Some(iova);
            }
            Step::MapFar | Step::MapInside => {
                let (key, at) = match step {
                    Step::MapFar => (own, 1 << 38),
                    _ => (self.explicit, INSIDE),
                };
                let piece = |offset| {
                    let (run, bytes, access) = (self.runs[PIECES].0, PAGE, Access::ReadWrite);
                    ChainPiece { run, offset, bytes, access, owner: 4 }
                };
                let place = Place::At { iova: Iova::new(at), limit: Iova::new(u64::MAX) };
                let chain = [piece(PAGE), piece(0)];
                engine.map_chain(platform, key.unwrap(), place, &chain).unwrap();
            }
            Step::Unmap(run) => {
                let iova = self.at[run].unwrap();
                engine.unmap(platform, own.unwrap(), iova, RUNS[run]).unwrap();
            }
            Step::UnmapInside => {
                let key = self.explicit.unwrap();
                engine.unmap(platform, key, Iova::new(INSIDE), PAGE).unwrap();
            }
            Step::MakeDomain => {
                let all: Vec<_> = case.devices.iter().map(|(device, ..)| *device).collect();
                self.explicit = Some(engine.create_explicit_domain(platform, &all, None).unwrap());
            }
            Step::Enter(index) => {
                engine.transfer(platform, device(index), self.explicit.unwrap()).unwrap();
            }
            Step::Leave(index) => {
                engine.transfer(platform, device(index), self.own[index].unwrap()).unwrap();
            }
            Step::EndDomain => {
                engine.destroy_domain(platform, self.explicit.take().unwrap()).unwrap();
            }
            Step::Block(index) => {
                self.blocked[index] = true;
                engine.block(platform, device(index)).unwrap();
            }
            Step::Unblock(index) => {
                let key = self.own[index];
                engine.unblock(platform, device(index), key).unwrap();
                self.blocked[index] = false;
            }
            Step::Allocate => {
                let run = platform.alloc_run(PAGE).unwrap();
                self.extra = Some((run, platform.place(run).unwrap()));
                engine.follow_arenas(platform);
            }
            Step::Free => platform.free_run(self.extra.take().unwrap().0),
            Step::Close(index) => {
                let own = self.own[index].take().unwrap();
                engine.detach(platform, device(index)).unwrap();
                engine.destroy_domain(platform, own).unwrap();
            }
        }
        engine.poll(platform);
        if case.busy.is_some() {
            for _ in 0..20 {
                platform.sim.advance_time(Duration::from_micros(10));
                engine.hasten(platform, &engine.owed_to(|_| true));
            }
        }
    }

    /// Keeps devices at work wherever something is mapped.
    pub(super) fn keep_busy(&self, case: &Case, platform: &mut Watched) {
        if case.busy.is_some() {
            let places = case.reach(&platform.sim).into_iter().zip(&case.devices);
            let places = places.flat_map(|(reach, (device, ..))| {
                reach.starts().map(|iova| (*device, iova)).collect::<Vec<_>>()
            });
            platform.sim.write_always(places.collect());
        }
    }

    /// How many runs there are besides those that are there from the start.
    pub(super) fn extra(&self) -> usize {
        usize::from(self.extra.is_some())
    }

    /// What the service has records of.
    pub(super) fn owners(&self, case: &Case) -> Owners {
        let opened = case.devices.iter().zip(&self.own);
        let held = opened
            .filter_map(|((device, ..), own)| Some(HeldDevice { device: *device, own: (*own)? }));
        let blocked = case.devices.iter().zip(&self.blocked).filter(|(_, blocked)| **blocked);
        let blocked =
            blocked.map(|((device, ..), _)| BlockedDevice { device: *device, was_master: true });
        let own = self.own.iter().copied().flatten();
        let domains: Vec<_> = own.chain(self.explicit).collect();
        let runs = self.runs.iter().zip(RUNS).enumerate();
        let buffers = runs.map(|(index, ((run, place), bytes))| {
            let (number, domains) = (if index == PIECES { 4 } else { 1 }, domains.clone());
            OwnedBuffer { number, run: *run, place: *place, bytes, domains, first: None }
        });
        let extra = self.extra.map(|(run, place)| OwnedBuffer {
            number: 9,
            run,
            place,
            bytes: PAGE,
            domains: Vec::new(),
            first: None,
        });
        Owners {
            held: held.collect(),
            blocked: blocked.collect(),
            explicit: self.explicit.into_iter().collect(),
            buffers: buffers.chain(extra).collect(),
            peer_bars: Vec::new(),
            left: Vec::new(),
        }
    }
}

/// Where pieces are in the explicit domain.
const INSIDE: u64 = 0x5000_0000;

/// Lets time pass until all units are up.
pub(super) fn settle(engine: &mut Engine, platform: &mut Watched) {
    for _ in 0..100_000 {
        if engine.is_settled() {
            return engine.poll(platform);
        }
        platform.advance(Duration::from_micros(40));
        engine.poll(platform);
    }
    panic!("the units never settled");
}

/// Ends everything that there is: how many frames are in use then.
pub(super) fn end_all(case: &Case, engine: &mut Engine, platform: &mut Watched) -> usize {
    let own: Vec<_> = engine.groups().iter().filter_map(|group| group.home).collect();
    let domains: Vec<_> = engine.domains().map(|(key, _)| key).collect();
    for key in &domains {
        let domain = engine.domain(*key).unwrap();
        let clients = domain.mappings().filter(|(_, it)| it.owner.buffer().is_some());
        let mapped: Vec<_> = clients.map(|(iova, mapping)| (iova, mapping.bytes)).collect();
        for (iova, bytes) in mapped {
            engine.unmap(platform, *key, iova, bytes).unwrap();
        }
    }
    for (device, ..) in &case.devices {
        let _ = engine.detach(platform, *device);
    }
    for key in domains.into_iter().filter(|key| !own.contains(key)) {
        engine.destroy_domain(platform, key).unwrap();
    }
    for _ in 0..10_000 {
        engine.hasten(platform, &engine.owed_to(|_| true));
        if engine.retired() == 0 {
            return platform.sim.usage().live_frames;
        }
        platform.sim.advance_time(Duration::from_micros(10));
    }
    panic!("units never confirmed");
}
