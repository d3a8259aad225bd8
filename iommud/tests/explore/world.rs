//! Two devices, each behind a unit of its own, two clients, and what these know.

use std::time::Duration;

use dma_types::PciAddress;
use iommu_engine::policy::{Invalidation, Policy};
use iommu_service::{Answer, Completed, HandleId, Outcome, RequestId, Service, Settings};
use iommu_sim::amdvi::AmdviTiming;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::vtd::Timing;
use iommud::platform::sim::{SimPlatform, Usage};
use libdma::Error;
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, BatchHeader, BufferInfo, Hello, MapEntry, Opcode, UnmapEntry,
};
use libdma::protocol::derive::{self, Allocate, Kind};
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, Ticket};
use simulated::{ROOT, edu, second_edu};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::event::{BUFFERS, Event, From, MOST, Order};
use crate::rules::Known;
use crate::search::Bound;
use crate::vendor::Vendor;

pub(crate) const PAGE: u64 = 4096;

/// More than unmaps are gathered for.
const LATER: Duration = Duration::from_millis(20);

/// What both clients and the hardware are at the moment.
pub(crate) struct World {
    pub(crate) service: Service<SimPlatform>,
    pub(crate) clients: [Client; 2],
    pub(crate) known: Known,
    pub(crate) invalidation: Invalidation,
    /// How many opens of each device pend whose clients are dead.
    orphans: [usize; 2],
    pub(crate) revoking: Vec<Revoking>,
    bound: Bound,
    /// What there was before anything happened.
    base: (Usage, usize),
}

/// A client: what it has, and what it waits for.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) device: Place<HandleId>,
    pub(crate) buffers: [Option<Held>; MOST],
}

/// Something that a client asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Place<T> {
    /// It has not.
    #[default]
    None,
    Asked(RequestId),
    Had(T),
}

/// A buffer that a client has.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) handle: Place<HandleId>,
    /// What requests call it.
    pub(crate) number: u64,
    /// Whether it is lent: mapped from the beginning, and never unmapped but by giving it up.
    pub(crate) is_lent: bool,
    pub(crate) mapped: Option<Mapped>,
    /// Whether its handle is good for nothing but to be closed.
    pub(crate) is_revoked: bool,
}

/// What is out of reach when revoking is answered: whose, at which address, and which buffer.
type Revoking = (RequestId, Vec<(usize, u64, u64)>);

/// What a client knows of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped {
    pub(crate) iova: u64,
    pub(crate) strict: bool,
    pub(crate) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Mapping(RequestId),
    Mapped,
    Unmapping(RequestId),
}

impl Held {
    fn new(handle: Place<HandleId>, number: u64, is_lent: bool) -> Self {
        Self { handle, number, is_lent, mapped: None, is_revoked: false }
    }
}

impl<T> Place<T> {
    pub(crate) fn had(self) -> Option<T> {
        match self {
            Self::Had(it) => Some(it),
            _ => None,
        }
    }
}

pub(crate) fn devices() -> [PciAddress; 2] {
    [edu(), second_edu()]
}

impl World {
    pub(crate) fn start(vendor: Vendor, invalidation: Invalidation, bound: Bound) -> Self {
        let platform = SimPlatform::with_manual_clock(vendor.two_units()).unwrap();
        let settings =
            Settings { policy: Policy { invalidation, ..Policy::default() }, lines: Vec::new() };
        let Ok(service) = Service::start(platform, settings) else { panic!("no IOMMU") };
        let base = (service.platform().usage(), 0);
        let (clients, known) = Default::default();
        let orphans = [0; 2];
        let revoking = Vec::new();
        let mut world =
            Self { service, clients, known, invalidation, orphans, revoking, bound, base };
        world.settle();
        // Whatever is kept that was grown by is there now.
        for client in [0, 1] {
            world.happens(Event::Open(client));
            for buffer in 0..BUFFERS[client] {
                world.happens(Event::New(client));
                world.happens(Event::Map(client, buffer, false));
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
        self.service.platform_mut().write_always(Vec::new());
        self.settle();
        for client in [0, 1] {
            self.die(client, Order::DeviceLast);
        }
        self.settle();
        let now = (self.service.platform().usage(), self.service.handles());
        if first {
            self.base = now;
        }
        assert_eq!(now, self.base, "something is left");
        assert_eq!((self.service.engine().retired(), self.service.tickets().len()), (0, 0));
        self.clients = Default::default();
        self.known = Known::default();
        assert!(self.revoking.is_empty(), "revoking is not answered");
        for unit in 0..2 {
            self.pace(unit, Takes::Never);
        }
        let everywhere = self.addresses();
        let each = devices().into_iter().flat_map(|it| everywhere.iter().map(move |at| (it, *at)));
        self.service.platform_mut().write_always(each.collect());
    }

    fn settle(&mut self) {
        while self.service.is_waiting() || !self.service.engine().is_settled() {
            self.service.platform_mut().advance_time(Duration::from_micros(10));
            self.poll();
        }
        self.poll();
    }

    /// Whether something can happen now.
    pub(crate) fn can(&self, event: Event) -> bool {
        let buffer = |client: usize, buffer: usize| self.clients[client].buffers[buffer].as_ref();
        let open = |client: usize| self.clients[client].device.had().is_some();
        match event {
            Event::Open(client) => matches!(self.clients[client].device, Place::None),
            Event::New(client) => open(client) && self.has_room(client),
            Event::Map(client, index, strict) => {
                // Where unmaps are answered late anyway, strict mappings are no others.
                let is_worth_it = !strict || self.invalidation == Invalidation::Deferred;
                let free =
                    |it: &Held| it.mapped.is_none() && it.handle.had().is_some() && !it.is_revoked;
                is_worth_it && open(client) && buffer(client, index).is_some_and(free)
            }
            Event::Unmap(client, index) => {
                // Who does not know the address yet may guess it.
                let is_mapped = |it: &Mapped| !matches!(it.stage, Stage::Unmapping(_));
                let suits = |it: &Held| !it.is_lent && it.mapped.as_ref().is_some_and(is_mapped);
                open(client) && buffer(client, index).is_some_and(suits)
            }
            Event::Drop(client, index) => {
                buffer(client, index).is_some_and(|it| it.handle.had().is_some())
            }
            Event::Lend => {
                let lent = |it: &Held| it.handle.had().is_some() && !it.is_revoked;
                open(0) && open(1) && buffer(0, 0).is_some_and(lent) && self.has_room(1)
            }
            Event::Revoke(from) => {
                let of = |client: usize| self.clients[client].buffers.iter().flatten();
                let has_some = match from {
                    From::Buffer => of(1).any(|it| it.is_lent && !it.is_revoked),
                    From::Device => of(0).any(|it| !it.is_revoked),
                };
                open(0) && has_some && buffer(0, 0).is_some_and(|it| !it.is_revoked)
            }
            Event::Die(client, _) => !matches!(self.clients[client].device, Place::None),
            Event::Confirm(unit) => !self.service.platform().machine().unforgotten(unit).is_empty(),
            Event::Poll => self.service.is_waiting(),
            Event::Wait => self.invalidation == Invalidation::Deferred && self.service.is_waiting(),
        }
    }

    /// Whether a client may have another buffer.
    fn has_room(&self, client: usize) -> bool {
        self.clients[client].buffers.iter().flatten().count() < BUFFERS[client]
    }

    /// Lets something happen.
    pub(crate) fn happens(&mut self, event: Event) {
        match event {
            Event::Open(client) => self.open(client),
            Event::New(client) => self.allocate(client),
            Event::Map(client, buffer, strict) => self.map(client, buffer, strict),
            Event::Unmap(client, buffer) => self.unmap(client, buffer),
            Event::Drop(client, buffer) => {
                if let Some(held) = self.clients[client].buffers[buffer].take()
                    && let Some(handle) = held.handle.had()
                {
                    self.service.close(handle);
                }
            }
            Event::Lend => self.lend(),
            Event::Revoke(from) => self.revoke(from),
            Event::Die(client, order) => self.die(client, order),
            Event::Confirm(unit) => {
                self.pace(unit, Takes::Immediate);
                self.service.platform_mut().tick();
                self.pace(unit, Takes::Never);
            }
            Event::Poll => self.poll(),
            Event::Wait => {
                self.service.platform_mut().advance_time(LATER);
                self.poll();
            }
        }
    }

    fn open(&mut self, client: usize) {
        let root = self.service.root();
        let path = format!("device/{}", devices()[client].to_string().replace(':', "--"));
        let opened = self.service.open(root, &path, ROOT);
        self.service.close(root);
        match opened {
            Ok(Outcome::Done(handle)) => self.opened(client, handle),
            Ok(Outcome::Pending(request)) => self.clients[client].device = Place::Asked(request),
            // Somebody died while his open pended: nobody can close what he has not been given.
            Err(Error::DeviceBusy) if self.orphans[client] > 0 => {}
            Err(other) => panic!("{other}"),
        }
    }

    fn opened(&mut self, client: usize, handle: HandleId) {
        self.greet(handle);
        self.clients[client].device = Place::Had(handle);
        self.known.begins(client);
    }

    fn greet(&mut self, handle: HandleId) {
        let mut hello = [0; 8];
        hello.copy_from_slice(Hello::new().as_bytes());
        let greeted = self.service.call(handle, Opcode::Hello as u64, &mut hello);
        assert_eq!(greeted, Ok(Outcome::Done(8)));
    }

    fn device(&self, client: usize) -> HandleId {
        self.clients[client].device.had().expect("an event that can happen")
    }

    /// The first place for a buffer.
    fn place(&mut self, client: usize) -> &mut Option<Held> {
        let places = &mut self.clients[client].buffers;
        places.iter_mut().find(|it| it.is_none()).expect("an event that can happen")
    }

    fn allocate(&mut self, client: usize) {
        let request = Allocate {
            kind: U32::new(Kind::Allocate as u32),
            bytes: U64::new(PAGE),
            align: U64::new(PAGE),
            limit: U64::new(u64::MAX),
            ..Allocate::new_zeroed()
        };
        let made = self.service.derive(self.device(client), request.as_bytes()).unwrap();
        let Outcome::Done(handle) = made else { panic!("no hardware is needed") };
        let number = self.number(handle);
        let handle = Place::Had(handle);
        *self.place(client) = Some(Held::new(handle, number, false));
    }

    /// What requests call a buffer.
    fn number(&mut self, handle: HandleId) -> u64 {
        self.greet(handle);
        let mut info = BufferInfo::new_zeroed();
        self.service.call(handle, Opcode::BufferInfo as u64, info.as_mut_bytes()).unwrap();
        info.buffer.get()
    }

    /// All addresses that there are.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        (1..=self.bound.pages).map(|page| page * PAGE).collect()
    }

    /// The highest address that there is.
    fn limit(&self) -> u64 {
        PAGE * (1 + self.bound.pages) - 1
    }

    fn map(&mut self, client: usize, index: usize, strict: bool) {
        let device = self.device(client);
        let limit = self.limit();
        let Some(held) = &mut self.clients[client].buffers[index] else { return };
        let mut entry = MapEntry::new_zeroed();
        entry.buffer = U64::new(held.number);
        entry.bytes = U64::new(PAGE);
        entry.limit = U64::new(limit);
        entry.access = U32::new(3);
        let mut payload = [header(strict).as_bytes(), entry.as_bytes()].concat();
        let stage = match self.service.call(device, Opcode::Map as u64, &mut payload) {
            Ok(Outcome::Done(_)) => {
                if BatchHeader::read_from_prefix(&payload).unwrap().0.errno.get() != 0 {
                    return;
                }
                Stage::Mapped
            }
            Ok(Outcome::Pending(request)) => Stage::Mapping(request),
            // The only address is taken, or the memory is mapped elsewhere.
            Err(Error::NoAddressSpace | Error::MappedElsewhere) => return,
            Err(other) => panic!("{other}"),
        };
        let iova = self.iova_of(client, index);
        if let Some(held) = &mut self.clients[client].buffers[index] {
            held.mapped = Some(Mapped { iova, strict, stage });
        }
    }

    /// Where a client's buffer is mapped for its device, which it knows or guesses.
    fn iova_of(&self, client: usize, index: usize) -> u64 {
        let number = self.clients[client].buffers[index].as_ref().map(|it| it.number);
        let engine = self.service.engine();
        let group = engine.group(devices()[client]).unwrap();
        let domain = group.attached.and_then(|key| engine.domain(key)).unwrap();
        let found = domain.mappings().find(|(_, it)| it.owner.buffer() == number);
        found.expect("what was just mapped").0.get()
    }

    fn unmap(&mut self, client: usize, index: usize) {
        let device = self.device(client);
        let Some(held) = &mut self.clients[client].buffers[index] else { return };
        let Some(mapped) = held.mapped else { return };
        let entry = UnmapEntry { iova: U64::new(mapped.iova), bytes: U64::new(PAGE) };
        let mut payload = [header(mapped.strict).as_bytes(), entry.as_bytes()].concat();
        match self.service.call(device, Opcode::Unmap as u64, &mut payload).unwrap() {
            Outcome::Done(_) => self.unmapped(client, index),
            Outcome::Pending(request) => {
                held.mapped = Some(Mapped { stage: Stage::Unmapping(request), ..mapped });
            }
        }
    }

    /// An unmap is answered.
    fn unmapped(&mut self, client: usize, index: usize) {
        let Some(held) = &mut self.clients[client].buffers[index] else { return };
        if let Some(mapped) = held.mapped.take()
            && (mapped.strict || self.invalidation == Invalidation::Strict)
        {
            self.known.is_gone(client, mapped.iova, held.number);
        }
    }

    fn lend(&mut self) {
        let Some(lent) = self.clients[0].buffers[0].as_ref().and_then(|it| it.handle.had()) else {
            return;
        };
        let rights = U32::new((Rights::BUFFER - Rights::SHARE).bits());
        let mut offer = Offer { rights, access: U32::new(3), ..Offer::default() };
        self.service.call(lent, Opcode::Offer as u64, offer.as_mut_bytes()).unwrap();
        let (ticket, _) = Ticket::read_from_prefix(offer.as_bytes()).unwrap();
        let request = derive::Attach {
            kind: U32::new(Kind::Attach as u32),
            access: U32::new(3),
            rights,
            reserved: U32::ZERO,
            align: U64::new(PAGE),
            limit: U64::new(self.limit()),
            ticket: ticket.0,
            label: [0; 32],
        };
        let handle = match self.service.derive(self.device(1), request.as_bytes()) {
            Ok(Outcome::Done(handle)) => Place::Had(handle),
            Ok(Outcome::Pending(request)) => Place::Asked(request),
            Err(Error::NoAddressSpace | Error::MappedElsewhere) => return,
            Err(other) => panic!("{other}"),
        };
        *self.place(1) = Some(Held::new(handle, 0, true));
        let is_new = |it: &Option<Held>| it.as_ref().is_some_and(|it| it.is_lent && it.number == 0);
        let index = self.clients[1].buffers.iter().position(is_new);
        if let (Place::Had(handle), Some(index)) = (handle, index) {
            self.lent(index, handle);
        }
    }

    /// The second client has what it was lent.
    fn lent(&mut self, index: usize, handle: HandleId) {
        let number = self.number(handle);
        let has = |held: &mut Held| (held.handle, held.number) = (Place::Had(handle), number);
        self.clients[1].buffers[index].iter_mut().for_each(has);
        let mapped = Mapped { iova: self.iova_of(1, index), strict: false, stage: Stage::Mapped };
        self.clients[1].buffers[index].iter_mut().for_each(|held| held.mapped = Some(mapped));
    }

    /// Revokes what was derived from a handle of the first client.
    fn revoke(&mut self, from: From) {
        let from = match from {
            From::Buffer => self.clients[0].buffers[0].as_ref().and_then(|it| it.handle.had()),
            From::Device => self.clients[0].device.had(),
        };
        let Some(from) = from else { return };
        let mut payload = [0; 16];
        let outcome = self.service.call(from, Opcode::Revoke as u64, &mut payload).unwrap();
        let mut gone = Vec::new();
        for client in [0, 1] {
            for held in self.clients[client].buffers.iter_mut().flatten() {
                let Some(handle) = held.handle.had().filter(|_| !held.is_revoked) else { continue };
                let mut info = BufferInfo::new_zeroed();
                let asked =
                    self.service.call(handle, Opcode::BufferInfo as u64, info.as_mut_bytes());
                held.is_revoked = asked == Err(Error::Revoked);
                if held.is_revoked {
                    let mapped = held.mapped.take();
                    gone.extend(mapped.map(|mapped| (client, mapped.iova, held.number)));
                }
            }
        }
        match outcome {
            Outcome::Done(_) => self.are_gone(gone),
            Outcome::Pending(request) => self.revoking.push((request, gone)),
        }
    }

    /// Revoking is answered.
    fn are_gone(&mut self, gone: Vec<(usize, u64, u64)>) {
        for (client, iova, number) in gone {
            self.known.is_gone(client, iova, number);
        }
    }

    fn die(&mut self, client: usize, order: Order) {
        let Client { device, buffers } = std::mem::take(&mut self.clients[client]);
        self.orphans[client] += usize::from(matches!(device, Place::Asked(_)));
        let buffers = buffers.iter().flatten().filter_map(|it| it.handle.had());
        let mut handles: Vec<_> = device.had().into_iter().chain(buffers).collect();
        if order == Order::DeviceLast {
            handles.reverse();
        }
        for handle in handles {
            self.service.close(handle);
        }
    }

    fn poll(&mut self) {
        for Completed { request, result } in self.service.poll() {
            match result {
                Ok(answer) => self.answered(request, answer),
                Err(Error::Revoked) => self.refused(request),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// The handle that this was asked on, or what was to be lent, was revoked before there was an answer.
    fn refused(&mut self, request: RequestId) {
        self.revoking.retain(|(asked, _)| *asked != request);
        for held in self.clients.iter_mut().flat_map(|it| &mut it.buffers) {
            let is_it = |it: &Held| matches!(it.handle, Place::Asked(asked) if asked == request);
            if held.as_ref().is_some_and(is_it) {
                *held = None;
            }
        }
    }

    /// Gives an answer to whoever asked, if that client lives.
    fn answered(&mut self, request: RequestId, answer: Answer) {
        if let Some(index) = self.revoking.iter().position(|(asked, _)| *asked == request) {
            let (_, gone) = self.revoking.remove(index);
            return self.are_gone(gone);
        }
        for client in [0, 1] {
            if matches!(self.clients[client].device, Place::Asked(asked) if asked == request) {
                let Answer::Handle(handle) = answer else { panic!("{answer:?}") };
                return self.opened(client, handle);
            }
            for index in 0..MOST {
                let Some(held) = &mut self.clients[client].buffers[index] else { continue };
                if matches!(held.handle, Place::Asked(asked) if asked == request) {
                    let Answer::Handle(handle) = answer else { panic!("{answer:?}") };
                    return self.lent(index, handle);
                }
                match &mut held.mapped {
                    Some(mapped) if mapped.stage == Stage::Mapping(request) => {
                        mapped.stage = Stage::Mapped;
                        return;
                    }
                    Some(mapped) if mapped.stage == Stage::Unmapping(request) => {
                        return self.unmapped(client, index);
                    }
                    _ => {}
                }
            }
        }
        let Answer::Handle(handle) = answer else { return };
        // Who asked is dead.
        self.service.close(handle);
        for client in [0, 1] {
            if !self.is_held(client) {
                self.orphans[client] = 0;
            }
        }
    }

    /// Whether there is a session of a client's device, or of one who died before.
    fn is_held(&self, client: usize) -> bool {
        self.service.engine().group(devices()[client]).is_some_and(|group| group.is_held())
    }

    /// How long a unit takes from now on.
    fn pace(&mut self, unit: usize, takes: Takes) {
        let mut machine = self.service.platform().machine_mut();
        if let Some(unit) = machine.unit_mut(unit) {
            unit.set_timing(Timing { registers: takes, queue: takes, ..Timing::default() });
        } else if let Some(unit) = machine.amdvi_mut(unit) {
            unit.set_timing(AmdviTiming { commands: takes, ..AmdviTiming::default() });
        }
    }
}

fn header(strict: bool) -> BatchHeader {
    BatchHeader {
        count: U32::new(1),
        failed: U32::ZERO,
        errno: U32::ZERO,
        flags: U32::new(if strict { BATCH_FLAG_STRICT } else { 0 }),
    }
}
