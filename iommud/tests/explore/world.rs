//! Two devices, each behind a unit of its own, two clients, and iommud between them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use dma_types::PciAddress;
use iommu_engine::domain::Domain;
use iommu_engine::platform::Platform;
use iommu_engine::policy::{Invalidation, Orphans, Policy};
use iommu_service::{Service, Settings};
use iommu_sim::MachineConfig;
use iommu_sim::amdvi::AmdviTiming;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::Timing;
use iommud::platform::sim::{SimPlatform, Usage};
use libdma::protocol::Rights;
use simulated::{edu, second_edu};

use crate::clients::{Client, Explicit, Held, Inside, Mapped, Place, Revoking, Stage};
use crate::event::{BUFFERS, Event, From, Order, Step};
use crate::mortal::{Dead, Mortal};
use crate::rules::Known;
use crate::search::Bound;
use crate::vendor::Vendor;

/// More than unmaps are gathered for, and than sessions wait for their clients.
const LATER: Duration = Duration::from_millis(20);
const ORPHANS: Duration = Duration::from_millis(15);

/// Where buffers go, by their length, of which there are as many places as there is room for: those in the upper half are
/// taken first, and each has a guard after it.
const PLACES: [u64; 3] = [1, 4, 6];

/// What both clients and the hardware are at the moment.
pub(crate) struct World {
    pub(crate) service: Service<Mortal>,
    /// Another, to be in its place for a moment.
    pub(crate) spare: Option<Service<Mortal>>,
    pub(crate) clients: [Client; 2],
    pub(crate) explicit: Option<Explicit>,
    pub(crate) known: Known,
    pub(crate) vendor: Vendor,
    pub(crate) invalidation: Invalidation,
    /// How many opens of each device pend whose clients are dead.
    pub(crate) orphans: [usize; 2],
    /// Whether there may be a session of each device from before a restart that nobody will resume.
    pub(crate) unclaimed: [bool; 2],
    pub(crate) revoking: Vec<Revoking>,
    /// The highest number that a buffer had, and that an explicit domain had.
    pub(crate) highest: [u64; 2],
    /// How often iommud has died.
    pub(crate) deaths: usize,
    /// How often it has, since this machine was new.
    pub(crate) restarts: usize,
    /// Whether it died while something was revoked.
    pub(crate) died_revoking: bool,
    pub(crate) bound: Bound,
    /// What there was before anything happened.
    base: (Usage, usize),
}

pub(crate) fn devices() -> [PciAddress; 2] {
    [edu(), second_edu()]
}

impl World {
    pub(crate) fn start(vendor: Vendor, invalidation: Invalidation, bound: Bound) -> Self {
        let mut machine = vendor.two_units();
        // Devices are denied all the time here, of which nobody is to be told.
        machine.units.iter_mut().for_each(|unit| unit.vtd.records_faults = false);
        machine.amdvi_units.iter_mut().for_each(|unit| unit.amdvi.logs_events = false);
        let platform = SimPlatform::with_manual_clock(machine).unwrap();
        let policy = Policy { invalidation, orphans: Orphans(ORPHANS), ..Policy::default() };
        let spare = SimPlatform::with_manual_clock(MachineConfig::default()).unwrap();
        let service = service(platform, policy);
        let base = (service.platform().sim.usage(), 0);
        let mut world = Self {
            service,
            spare: Some(self::service(spare, Policy::default())),
            clients: Default::default(),
            explicit: None,
            known: Known::default(),
            vendor,
            invalidation,
            orphans: [0; 2],
            unclaimed: [false; 2],
            revoking: Vec::new(),
            highest: [0; 2],
            deaths: 0,
            restarts: 0,
            died_revoking: false,
            bound,
            base,
        };
        world.settle();
        // Whatever is kept that was grown by is there now.
        for client in [0, 1] {
            world.act(Event::Open(client));
            for buffer in 0..BUFFERS[client] {
                world.act(Event::New(client));
                world.act(Event::Map(client, buffer, false));
            }
        }
        world.clear(true);
        world
    }

    /// Everything ends, and nothing is left. `first`: what there is then is all that there ever is.
    pub(crate) fn clear(&mut self, first: bool) {
        for unit in 0..2 {
            self.pace(unit, Takes::Immediate);
        }
        self.known = Known::default();
        self.sim_mut().write_always(Vec::new());
        self.settle();
        for client in [0, 1] {
            self.die(client, Order::DeviceLast);
        }
        self.settle();
        if self.deaths > 0 {
            self.sim_mut().advance_time(LATER);
            self.poll();
            self.settle();
        }
        let now = (self.sim().usage(), self.service.handles());
        if first {
            self.base = now;
        }
        assert_eq!(now, self.base, "something is left");
        assert_eq!((self.service.engine().retired(), self.service.tickets().len()), (0, 0));
        assert_eq!(self.service.sessions().sessions.len(), 0, "sessions are left");
        self.clients = Default::default();
        self.known = Known::default();
        (self.orphans, self.unclaimed, self.deaths, self.died_revoking) = Default::default();
        assert!(self.revoking.is_empty(), "revoking is not answered");
        assert!(self.explicit.is_none());
        for unit in 0..2 {
            self.pace(unit, Takes::Never);
        }
        let everywhere = self.addresses();
        let each = devices().into_iter().flat_map(|it| everywhere.iter().map(move |at| (it, *at)));
        let each = each.collect();
        self.sim_mut().write_always(each);
    }

    pub(crate) fn sim(&self) -> &SimPlatform {
        &self.service.platform().sim
    }

    pub(crate) fn sim_mut(&mut self) -> &mut SimPlatform {
        &mut self.service.platform_mut().sim
    }

    /// Whether something is under way that hardware has not confirmed.
    pub(crate) fn is_busy(&self) -> bool {
        self.service.is_waiting() || !self.service.engine().is_settled()
    }

    /// Whether what a predecessor had is not decided about.
    pub(crate) fn inherits(&self) -> bool {
        self.sim().inherited()
    }

    fn settle(&mut self) {
        while self.is_busy() {
            self.sim_mut().advance_time(Duration::from_micros(10));
            self.poll();
        }
        self.poll();
    }

    /// Units do all that they were asked for, until nothing is under way.
    fn settle_now(&mut self) {
        [0, 1].into_iter().for_each(|unit| self.pace(unit, Takes::Immediate));
        self.settle();
        [0, 1].into_iter().for_each(|unit| self.pace(unit, Takes::Never));
    }

    /// Whether something can happen now.
    pub(crate) fn can(&self, event: Event) -> bool {
        let buffer = |client: usize, buffer: usize| self.clients[client].buffers[buffer].as_ref();
        let open = |client: usize| self.clients[client].device.had().is_some();
        match event {
            Event::Open(client) => matches!(self.clients[client].device, Place::None),
            Event::New(client) => open(client) && self.has_room(client),
            Event::Part => open(0) && self.has_room(0),
            Event::Map(client, index, strict) => {
                // Where unmaps are answered late anyway, strict mappings are no others.
                let is_worth_it = !strict || self.invalidation == Invalidation::Deferred;
                let held = buffer(client, index);
                let free = held.is_some_and(|it| {
                    it.mapped.is_none() && it.handle.had().is_some() && !it.is_revoked
                });
                is_worth_it && open(client) && free
            }
            Event::Unmap(client, index) => {
                // Who does not know the address yet may guess it.
                let held = buffer(client, index).filter(|it| !it.is_lent);
                let suits = held.and_then(|it| it.mapped).is_some_and(|it| can_unmap(it.stage));
                open(client) && suits
            }
            Event::Drop(client, index) => {
                buffer(client, index).is_some_and(|it| it.handle.had().is_some())
            }
            Event::Lend => {
                let may = |it: &Held| it.rights.contains(Rights::SHARE);
                let may = buffer(0, 0).is_some_and(may);
                open(0) && open(1) && self.has_first() && may && self.has_room(1)
            }
            Event::Revoke(from) => open(0) && self.has_first() && self.has_derived(from),
            Event::Domain => open(0) && self.explicit.is_none(),
            Event::MapThere => open(0) && self.has_first() && self.is_there(|it| it.is_none()),
            Event::UnmapThere => {
                open(0) && self.is_there(|it| it.is_some_and(|it| can_unmap(it.1.stage)))
            }
            Event::DropDomain => self.is_there(|_| true),
            Event::Enter(client) => {
                let inside = self.clients[client].inside;
                open(client) && self.is_there(|_| true) && inside == Inside::Own
            }
            Event::Leave(client) => open(client) && self.clients[client].inside == Inside::Explicit,
            Event::Die(client, _) => !matches!(self.clients[client].device, Place::None),
            Event::Confirm(unit) => {
                let is_starting = !self.service.engine().is_settled();
                is_starting || !self.sim().machine().unforgotten(unit).is_empty()
            }
            Event::Poll | Event::Settle => self.is_busy(),
            Event::Wait => {
                let is_gathering = self.invalidation == Invalidation::Deferred;
                (is_gathering && self.service.is_waiting()) || self.awaits_clients()
            }
            Event::Restart => self.deaths < self.bound.deaths,
            Event::Resume(client) => matches!(self.clients[client].device, Place::Lost),
        }
    }

    /// Whether a client may have another buffer.
    fn has_room(&self, client: usize) -> bool {
        self.clients[client].buffers.iter().flatten().count() < BUFFERS[client]
    }

    /// Whether the first client has a first buffer that is good for something.
    fn has_first(&self) -> bool {
        let first = self.clients[0].buffers[0].as_ref();
        first.is_some_and(|it| it.handle.had().is_some() && !it.is_revoked)
    }

    fn has_derived(&self, from: From) -> bool {
        let of = |client: usize| self.clients[client].buffers.iter().flatten();
        match from {
            From::Buffer => of(1).any(|it| it.is_lent && !it.is_revoked),
            From::Part => of(0).any(|it| it.part.is_some() && !it.is_revoked),
            From::Device => of(0).any(|it| !it.is_revoked),
        }
    }

    /// Whether there is a domain of which the first client has a handle, and in which this is mapped.
    fn is_there(&self, suits: impl Fn(&Option<(u64, Mapped)>) -> bool) -> bool {
        self.explicit.as_ref().is_some_and(|it| it.handle.had().is_some() && suits(&it.mapped))
    }

    /// Whether a session waits for its client.
    fn awaits_clients(&self) -> bool {
        self.service.sessions().sessions.values().any(|session| session.orphaned.is_some())
    }

    /// Lets something happen, or iommud die in the midst of it. Whether it has: it may be done with it before.
    pub(crate) fn happens(&mut self, step: Step) -> bool {
        self.service.platform().fate.set(step.dies_after);
        let done = catch_unwind(AssertUnwindSafe(|| self.act(step.event)));
        match done {
            Ok(()) => {
                self.service.platform().fate.set(None);
                false
            }
            Err(why) if why.is::<Dead>() => {
                if matches!(step.event, Event::Revoke(_)) {
                    self.died_revoking = true;
                    self.doubt_all();
                }
                self.restart();
                if step.event == Event::Wait {
                    self.lose_sessions();
                }
                true
            }
            Err(why) => resume_unwind(why),
        }
    }

    fn act(&mut self, event: Event) {
        match event {
            Event::Open(client) => self.open(client),
            Event::New(client) => self.allocate(client),
            Event::Map(client, buffer, strict) => self.map(client, buffer, strict),
            Event::Unmap(client, buffer) => self.unmap(client, buffer),
            Event::Drop(client, buffer) => self.give_up(client, buffer),
            Event::Lend => self.lend(),
            Event::Part => self.allocate_part(),
            Event::Revoke(from) => self.revoke(from),
            Event::Domain => self.make_domain(),
            Event::MapThere => self.map_there(),
            Event::UnmapThere => self.unmap_there(),
            Event::DropDomain => self.drop_domain(),
            Event::Enter(client) => self.enter(client),
            Event::Leave(client) => self.leave(client),
            Event::Die(client, order) => self.die(client, order),
            Event::Confirm(unit) => {
                self.pace(unit, Takes::Immediate);
                self.sim_mut().tick();
                self.pace(unit, Takes::Never);
            }
            Event::Poll => self.poll(),
            Event::Settle => self.settle_now(),
            Event::Wait => {
                self.sim_mut().advance_time(LATER);
                self.poll();
                self.lose_sessions();
            }
            Event::Restart => self.restart(),
            Event::Resume(client) => {
                if !self.service.engine().is_settled() {
                    self.settle_now();
                }
                self.resume(client);
            }
        }
    }

    /// All addresses that a buffer can have.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        let places = &PLACES[..self.bound.room];
        // What a successor adopts has no guards.
        let between = PLACES[0]..=places.last().copied().unwrap_or_default();
        let between = between.filter(|place| self.bound.deaths > 0 || places.contains(place));
        between.map(|place| place * self.bound.bytes).collect()
    }

    /// The highest address that there is.
    pub(crate) fn limit(&self) -> u64 {
        (PLACES[self.bound.room - 1] + 1) * self.bound.bytes - 1
    }

    /// How many buffers are mapped in the domain in which the most are.
    pub(crate) fn most_mapped(&self) -> usize {
        let buffers = |domain: &Domain| {
            domain.mappings().filter(|(_, it)| it.owner.buffer().is_some()).count()
        };
        let domains = self.service.engine().domains();
        domains.map(|(_, domain)| buffers(domain)).max().unwrap_or(0)
    }

    /// How long a unit takes from now on.
    fn pace(&mut self, unit: usize, takes: Takes) {
        let mut machine = self.sim().machine_mut();
        if let Some(unit) = machine.unit_mut(unit) {
            unit.set_timing(Timing { registers: takes, queue: takes, ..Timing::default() });
        } else if let Some(unit) = machine.amdvi_mut(unit) {
            unit.set_timing(AmdviTiming { commands: takes, ..AmdviTiming::default() });
        }
    }
}

fn can_unmap(stage: Stage) -> bool {
    matches!(stage, Stage::Mapped | Stage::Mapping(_))
}

fn service(platform: SimPlatform, policy: Policy) -> Service<Mortal> {
    let settings = Settings { policy, lines: Vec::new() };
    let Ok(service) = Service::start(Mortal::new(platform), settings) else { panic!("no IOMMU") };
    service
}
