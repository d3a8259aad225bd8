//! Random drivers: whatever they ask for in whatever order, and however their sessions end, devices reach what is mapped
//! for them and nothing that is free (R1 to R7).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dma_types::{Iova, PciAddress};
use iommu_engine::policy::{Invalidation, Policy, Quotas};
use iommu_service::{Answer, Completed, HandleId, Outcome, RequestId, Service};
use iommu_sim::Memory;
use iommu_sim::pace::Completion as Takes;
use iommud::platform::sim::SimPlatform;
use libdma::Error;
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, BatchHeader, BufferInfo, MAP_FLAG_AT, MAP_FLAG_BEHIND, MapEntry, Opcode,
    UNMAPPED, UnmapEntry,
};
use libdma::protocol::derive::{self, Kind};
use libdma::protocol::domain::{Create, DomainInfo, Enter, Leave, Lookup};
use libdma::protocol::ticket::Offer;
use libdma::protocol::{Rights, Ticket};
use proptest::prelude::*;
use proptest::sample::Index;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::hostile::{allocate, greet};
use crate::recount::recount;
use crate::rig::{ROOT, Rig};
use crate::tickets::attaching;
use crate::vendor::{Vendor, slow_down};

both! {
    r2_r3_r4_random_drivers_keep_every_rule,
    r2_random_drivers_keep_every_rule_where_unmaps_are_gathered,
}

const PAGE: u64 = 4096;
const DEVICES: [&str; 2] = ["0000--00--02.0", "0000--01--00.0"];

/// One thing that some driver does. What it is done to is chosen of what there is.
#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    Copy(Index, u32),
    Allocate(Index, u64, u32),
    Offer(Index, u32, u32, bool),
    Attach(Index, Index, u32, u32),
    NewDomain(Index, bool),
    Enter(Index, Index),
    Leave(Index, Index),
    /// With entries, strictly or not.
    Map(Index, Vec<(Index, u64, u32, u8, u64)>, bool),
    Unmap(Index, Vec<Index>, bool),
    /// A buffer of this many pages strictly mapped, and strictly unmapped.
    Turn(Index, Index, u64),
    Lookup(Index, Index),
    Close(Index),
    Noise(Index, u64, Vec<u8>),
    Poll,
    Pace(bool),
    /// So little memory for tables is left, or as much as there is.
    Frames(u8),
}

/// What drivers do, who begin with both devices and some buffers.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let buffer = (any::<Index>(), 2..5u64, prop_oneof![Just(0), Just(3)]);
    let buffer = buffer.prop_map(|(of, pages, access)| Step::Allocate(of, pages, access));
    let buffers = prop::collection::vec(buffer, 0..6);
    (buffers, prop::collection::vec(step(), 1..120))
        .prop_map(|(buffers, steps)| [vec![Step::Open(0), Step::Open(1)], buffers, steps].concat())
}

fn step() -> impl Strategy<Value = Step> {
    let one = any::<Index>;
    let access = || prop_oneof![1 => 0..4u32, 4 => Just(3)];
    // What is mapped at once is not mapped strictly.
    let at_once = prop_oneof![1 => 0..4u32, 3 => Just(0), 3 => Just(3)];
    let rights = || prop_oneof![1 => 0..64u32, 4 => Just(Rights::BUFFER.bits())];
    let entry = (one(), 1..3u64, access(), 0..8u8, 0..6u64);
    let entries = prop_oneof![
        4 => prop::collection::vec(entry.clone(), 1..5),
        1 => prop::collection::vec(entry, 120..129),
    ];
    prop_oneof![
        3 => (0..2usize).prop_map(Step::Open),
        2 => (one(), rights()).prop_map(|(of, rights)| Step::Copy(of, rights)),
        4 => (one(), 2..5u64, at_once).prop_map(|(of, pages, access)| Step::Allocate(of, pages, access)),
        5 => (one(), rights(), access(), any::<bool>()).prop_map(|(of, rights, access, all)| Step::Offer(of, rights, access, all)),
        4 => (one(), one(), rights(), access()).prop_map(|(of, by, rights, access)| Step::Attach(of, by, rights, access)),
        3 => (one(), any::<bool>()).prop_map(|(of, window)| Step::NewDomain(of, window)),
        5 => (one(), one()).prop_map(|(of, by)| Step::Enter(of, by)),
        2 => (one(), one()).prop_map(|(of, domain)| Step::Leave(of, domain)),
        6 => (one(), entries, prop::bool::weighted(0.3)).prop_map(|(of, entries, strict)| Step::Map(of, entries, strict)),
        4 => (one(), prop::collection::vec(one(), 1..4), any::<bool>()).prop_map(|(of, which, strict)| Step::Unmap(of, which, strict)),
        6 => (one(), one(), 1..3u64).prop_map(|(buffer, by, pages)| Step::Turn(buffer, by, pages)),
        1 => (one(), one()).prop_map(|(of, at)| Step::Lookup(of, at)),
        5 => one().prop_map(Step::Close),
        2 => (one(), 0..16u64, prop::collection::vec(any::<u8>(), 0..120)).prop_map(|(of, opcode, bytes)| Step::Noise(of, opcode, bytes)),
        3 => Just(Step::Poll),
        2 => any::<bool>().prop_map(Step::Pace),
        2 => (0..8u8).prop_map(Step::Frames),
    ]
}

/// What a handle is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Device,
    Domain,
    Buffer,
}

/// A handle, and the driver that has it: the number of its session.
#[derive(Clone, Copy, Debug)]
struct Held {
    handle: HandleId,
    of: Of,
    driver: usize,
}

/// What all drivers together hold and know.
#[derive(Default)]
struct World {
    drivers: usize,
    handles: Vec<Held>,
    /// Requests that pend: of which kind the handle is that answers them, if it is one, and whose.
    pending: BTreeMap<RequestId, (Of, usize)>,
    /// What was offered, and of which kind of handle.
    tickets: Vec<(Of, [u8; 16])>,
    /// Buffers by their numbers, whose they are, and by which handle.
    buffers: Vec<(usize, u64, HandleId)>,
    domains: Vec<u64>,
    /// Addresses that a driver once had something mapped at, with the length.
    known: Vec<(usize, u64, u64)>,
    /// Buffers by their numbers and addresses at which they were last mapped strictly.
    strict: BTreeSet<(u64, u64)>,
}

/// A mapping that a client has, and where in memory its pages are.
struct InMemory {
    key: (u64, u64),
    pages: Vec<u64>,
}

/// All of clients' mappings.
fn in_memory(service: &Service<SimPlatform>) -> Vec<InMemory> {
    let mut all = Vec::new();
    for (_, domain) in service.engine().domains() {
        for (iova, mapping) in domain.mappings() {
            let Some(owner) = mapping.owner.buffer() else { continue };
            let at = (0..mapping.bytes / PAGE).map(|page| Iova::new(iova.get() + page * PAGE));
            let pages = at.map(|at| domain.translate(service.platform(), at).unwrap().phys.get());
            all.push(InMemory { key: (owner, iova.get()), pages: pages.collect() });
        }
    }
    all
}

/// One of the latest that suit, or now and then, or if there is none, any.
fn pick<T: Copy>(all: &[T], index: Index, suits: impl Fn(&T) -> bool) -> Option<T> {
    let suiting: Vec<T> = all.iter().rev().copied().filter(suits).take(4).collect();
    let from = if suiting.is_empty() || index.index(16) == 0 { all } else { &suiting };
    (!from.is_empty()).then(|| *index.get(from))
}

impl World {
    fn made(
        &mut self,
        service: &mut Service<SimPlatform>,
        made: Result<Outcome<HandleId>, Error>,
        (of, driver): (Of, usize),
    ) {
        match made {
            Ok(Outcome::Done(handle)) => self.opened(service, Held { handle, of, driver }),
            Ok(Outcome::Pending(request)) => drop(self.pending.insert(request, (of, driver))),
            Err(_) => {}
        }
    }

    fn opened(&mut self, service: &mut Service<SimPlatform>, held: Held) {
        let Held { handle, driver, .. } = held;
        self.handles.push(held);
        greet(service, handle);
        let mut info = BufferInfo::new_zeroed();
        if service.call(handle, Opcode::BufferInfo as u64, info.as_mut_bytes()).is_ok() {
            self.buffers.push((driver, info.buffer.get(), handle));
            if info.iova.get() != UNMAPPED {
                self.known.push((driver, info.iova.get(), info.bytes.get()));
            }
        }
        let mut info = DomainInfo::new_zeroed();
        if service.call(handle, Opcode::DomainInfo as u64, info.as_mut_bytes()).is_ok() {
            self.domains.push(info.domain.get());
        }
    }

    fn called(
        &mut self,
        service: &mut Service<SimPlatform>,
        held: Held,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> bool {
        match service.call(held.handle, opcode as u64, payload) {
            Ok(Outcome::Done(_)) => true,
            Ok(Outcome::Pending(request)) => {
                self.pending.insert(request, (held.of, held.driver));
                // Its client does not know yet, but may guess.
                true
            }
            Err(_) => false,
        }
    }

    fn poll(&mut self, service: &mut Service<SimPlatform>) {
        for Completed { request, result } in service.poll() {
            let asked = self.pending.remove(&request);
            let (of, driver) = asked.expect("a request that was made, answered once");
            if let Ok(Answer::Handle(handle)) = result {
                self.opened(service, Held { handle, of, driver });
            }
        }
    }

    fn map(
        &mut self,
        service: &mut Service<SimPlatform>,
        of: Held,
        entries: &[(Index, u64, u32, u8, u64)],
        strict: bool,
    ) {
        let entries: Vec<_> = entries
            .iter()
            .map(|(buffer, pages, access, flags, place)| MapEntry {
                buffer: U64::new(
                    pick(&self.buffers, *buffer, |it| it.0 == of.driver).map_or(0, |it| it.1),
                ),
                offset: U64::ZERO,
                bytes: U64::new(pages * PAGE),
                limit: U64::new(u64::MAX),
                // Near each other, and so far up that tables grow.
                iova: U64::new(
                    [0, 0x5000_0000, 0x5000_1000, 0x501f_f000, (1 << 41) - PAGE, 1 << 41]
                        [*place as usize],
                ),
                access: U32::new(*access),
                flags: U32::new(match flags {
                    0..3 => 0,
                    3..5 => MAP_FLAG_AT,
                    _ => MAP_FLAG_BEHIND,
                }),
            })
            .collect();
        self.send_map(service, of, &entries, strict);
    }

    /// Asks for these mappings.
    fn send_map(
        &mut self,
        service: &mut Service<SimPlatform>,
        of: Held,
        entries: &[MapEntry],
        strict: bool,
    ) {
        let flags = if strict { BATCH_FLAG_STRICT } else { 0 };
        let mut payload = [header(entries.len(), flags).as_bytes(), entries.as_bytes()].concat();
        // The first of a chain lies behind nothing.
        if let Ok((_, rest)) = BatchHeader::mut_from_prefix(&mut payload)
            && let Ok((first, _)) = MapEntry::mut_from_prefix(rest)
            && first.flags.get() == MAP_FLAG_BEHIND
        {
            first.flags = U32::ZERO;
        }
        if self.called(service, of, Opcode::Map, &mut payload) {
            let Ok((header, rest)) = BatchHeader::read_from_prefix(&payload) else { return };
            let answers = rest.chunks_exact(size_of::<MapEntry>());
            let answers = answers.filter_map(|bytes| MapEntry::read_from_bytes(bytes).ok());
            for entry in answers {
                let (buffer, iova) = (entry.buffer.get(), entry.iova.get());
                self.known.push((of.driver, iova, entry.bytes.get()));
                if header.errno.get() == 0 {
                    // One that pends is there.
                    match strict {
                        true => self.strict.insert((buffer, iova)),
                        false => self.strict.remove(&(buffer, iova)),
                    };
                }
            }
        }
    }

    /// Asks for these to be unmapped, and looks whether they are.
    fn unmap(
        &mut self,
        service: &mut Service<SimPlatform>,
        of: Held,
        entries: &[UnmapEntry],
        strict: bool,
    ) {
        let flags = if strict { BATCH_FLAG_STRICT } else { 0 };
        let mut payload = [header(entries.len(), flags).as_bytes(), entries.as_bytes()].concat();
        let alone = in_memory(service).into_iter().filter(|it| self.strict.contains(&it.key));
        let alone: Vec<InMemory> = alone.collect();
        self.write_everywhere(service);
        let pending = self.pending.len();
        self.called(service, of, Opcode::Unmap, &mut payload);
        if strict && self.pending.len() == pending {
            self.look_at_unmapped(service, alone);
        }
    }

    /// Lets devices write wherever something was mapped once.
    fn write_everywhere(&self, service: &Service<SimPlatform>) {
        let machine = &mut service.platform().machine_mut();
        for device in devices() {
            machine.config_write(device, 4, 6);
            for &(_, iova, bytes) in &self.known {
                for at in (iova..iova + bytes).step_by(PAGE as usize) {
                    let _ = machine.dma_write(device, at, &[1; 8]);
                }
            }
        }
    }

    fn held(&self, index: Index, kinds: &[Of]) -> Option<Held> {
        pick(&self.handles, index, |it| kinds.contains(&it.of))
    }

    /// Forgets a ticket, mostly, that has been used.
    fn spent(&mut self, ticket: [u8; 16], used: bool) {
        if used && !ticket[0].is_multiple_of(8) {
            self.tickets.retain(|(_, other)| *other != ticket);
        }
    }

    /// Takes a step, if there is something to take it with.
    fn take(&mut self, rig: &Rig, step: &Step) -> Option<()> {
        const ANY: &[Of] = &[Of::Device, Of::Domain, Of::Buffer];
        const SPACE: &[Of] = &[Of::Device, Of::Domain];
        const DEVICE: &[Of] = &[Of::Device];
        let service = &mut *rig.service.lock();
        match step {
            Step::Open(device) => {
                let root = service.root();
                let opened = service.open(root, &format!("device/{}", DEVICES[*device]), ROOT);
                service.close(root);
                self.drivers += 1;
                self.made(service, opened, (Of::Device, self.drivers));
            }
            Step::Copy(of, rights) => {
                let of = self.held(*of, ANY)?;
                let more = if of.of == Of::Device { Rights::DEVICE } else { Rights::INSPECT };
                let (kind, rights) = (Kind::Copy as u32, *rights | more.bits());
                let copy = derive::Copy { kind: U32::new(kind), rights: U32::new(rights) };
                let made = service.derive(of.handle, copy.as_bytes());
                self.made(service, made, (of.of, of.driver));
            }
            Step::Allocate(of, pages, access) => {
                let of = self.held(*of, DEVICE)?;
                let access = U32::new(*access);
                let request = derive::Allocate { access, ..allocate(pages * PAGE) };
                let made = service.derive(of.handle, request.as_bytes());
                self.made(service, made, (Of::Buffer, of.driver));
            }
            Step::Offer(of, rights, access, all) => {
                let of = self.held(*of, ANY)?;
                let whole = (Rights::BUFFER.bits(), 3);
                let (rights, access) = if *all { whole } else { (*rights, *access) };
                let (rights, access) = (U32::new(rights), U32::new(access));
                let mut request = match of.of {
                    Of::Buffer => Offer { rights, access, ..Offer::default() },
                    Of::Device => Offer { access, bytes: U64::new(PAGE), ..Offer::default() },
                    Of::Domain => Offer::default(),
                };
                if self.called(service, of, Opcode::Offer, request.as_mut_bytes()) {
                    let (ticket, _) = Ticket::read_from_prefix(request.as_bytes()).unwrap();
                    self.tickets.push((of.of, ticket.0));
                }
            }
            Step::Attach(of, by, rights, access) => {
                let of = self.held(*of, DEVICE)?;
                let (_, ticket) = pick(&self.tickets, *by, |it| it.0 != Of::Domain)?;
                let request = attaching(ticket, Rights::from_bits_truncate(*rights), None);
                let request = derive::Attach { access: U32::new(*access), ..request };
                let made = service.derive(of.handle, request.as_bytes());
                self.spent(ticket, made.is_ok());
                self.made(service, made, (Of::Buffer, of.driver));
            }
            Step::NewDomain(of, window) => {
                let of = self.held(*of, DEVICE)?;
                let (base, bytes) = if *window { (0x5000_0000, 1 << 22) } else { (0, 0) };
                let kind = U32::new(Kind::Domain as u32);
                let (base, bytes) = (U64::new(base), U64::new(bytes));
                let request = Create { kind, reserved: U32::ZERO, base, bytes, label: [0; 32] };
                let made = service.derive(of.handle, request.as_bytes());
                self.made(service, made, (Of::Domain, of.driver));
            }
            Step::Enter(of, by) => {
                let of = self.held(*of, DEVICE)?;
                let (_, ticket) = pick(&self.tickets, *by, |it| it.0 == Of::Domain)?;
                let entered =
                    self.called(service, of, Opcode::Enter, Enter { ticket }.as_mut_bytes());
                self.spent(ticket, entered);
            }
            Step::Leave(of, domain) => {
                let of = self.held(*of, DEVICE)?;
                let domain = U64::new(pick(&self.domains, *domain, |_| true)?);
                self.called(service, of, Opcode::Leave, Leave { domain }.as_mut_bytes());
            }
            Step::Map(of, entries, strict) => {
                let of = self.held(*of, SPACE)?;
                self.map(service, of, entries, *strict);
            }
            Step::Unmap(of, which, strict) => {
                let of = self.held(*of, SPACE)?;
                let known =
                    which.iter().filter_map(|it| pick(&self.known, *it, |it| it.0 == of.driver));
                let entries: Vec<_> = known
                    .map(|(_, iova, bytes)| (U64::new(iova), U64::new(bytes)))
                    .map(|(iova, bytes)| UnmapEntry { iova, bytes })
                    .collect();
                self.unmap(service, of, &entries, *strict);
            }
            Step::Turn(buffer, by, pages) => {
                let (driver, number, _) = pick(&self.buffers, *buffer, |_| true)?;
                let suits = |it: &Held| it.driver == driver && SPACE.contains(&it.of);
                let of = pick(&self.handles, *by, suits)?;
                let mut entry = MapEntry::new_zeroed();
                entry.buffer = U64::new(number);
                entry.bytes = U64::new(pages * PAGE);
                entry.limit = U64::new(u64::MAX);
                entry.access = U32::new(3);
                let known = self.known.len();
                self.send_map(service, of, &[entry], true);
                let &(_, iova, bytes) = self.known.get(known)?;
                let (iova, bytes) = (U64::new(iova), U64::new(bytes));
                self.unmap(service, of, &[UnmapEntry { iova, bytes }], true);
            }
            Step::Lookup(of, at) => {
                let of = self.held(*of, SPACE)?;
                let (_, iova, _) = pick(&self.known, *at, |it| it.0 == of.driver)?;
                let mut payload = [0; 48];
                payload[..8].copy_from_slice(Lookup { iova: U64::new(iova) }.as_bytes());
                self.called(service, of, Opcode::Lookup, &mut payload);
            }
            Step::Close(of) => {
                let of = self.held(*of, ANY)?.handle;
                self.handles.retain(|held| held.handle != of);
                self.buffers.retain(|(_, _, by)| *by != of);
                service.close(of);
            }
            Step::Noise(of, opcode, bytes) => {
                let of = self.held(*of, ANY)?;
                let mut bytes = bytes.clone();
                if let Ok(Outcome::Pending(request)) = service.call(of.handle, *opcode, &mut bytes)
                {
                    self.pending.insert(request, (of.of, of.driver));
                }
                if let Some(&first) = bytes.get(4) {
                    bytes[..4].copy_from_slice(&[1 + first % 6, 0, 0, 0]);
                }
                let made = service.derive(of.handle, &bytes);
                self.made(service, made, (of.of, of.driver));
            }
            Step::Poll => self.poll(service),
            Step::Pace(slow) => {
                let takes = if *slow { Takes::After(200_000) } else { Takes::Immediate };
                slow_down(&mut service.platform().machine_mut(), takes);
            }
            Step::Frames(more) => {
                let platform = service.platform_mut();
                let limit = platform.usage().live_frames + usize::from(*more);
                platform.limit_frames(if *more > 4 { usize::MAX } else { limit });
            }
        }
        Some(())
    }

    /// Whether no device reaches the memory of what was mapped strictly and is no more.
    fn look_at_unmapped(&self, service: &Service<SimPlatform>, before: Vec<InMemory>) {
        let still = in_memory(service);
        let gone = before.into_iter().filter(|it| still.iter().all(|other| other.key != it.key));
        let pages: Vec<u64> = gone.flat_map(|it| it.pages).collect();
        let write = |page: &u64| service.platform().machine().memory().write64(*page, 0);
        assert!(pages.iter().all(write));
        self.write_everywhere(service);
        for page in pages {
            let found = service.platform().machine().memory().read64(page);
            assert_eq!(found, Some(0), "reached at {page:#x}");
        }
    }

    /// Whether what is mapped strictly is mapped once.
    fn look_at_strict(&self, service: &Service<SimPlatform>) {
        let all = in_memory(service);
        for one in all.iter().filter(|one| self.strict.contains(&one.key)) {
            let also = |other: &&InMemory| other.pages.iter().any(|page| one.pages.contains(page));
            assert_eq!(all.iter().filter(also).count(), 1, "{:?}", one.key);
        }
    }

    /// Whether devices reach what is mapped where they are, nothing else, and nothing that is free.
    fn look(&self, rig: &Rig) {
        let service = &mut *rig.service.lock();
        self.look_at_strict(service);
        recount(service);
        for device in devices() {
            let mut reached = Vec::new();
            for &(_, iova, bytes) in self.known.iter().rev().take(40) {
                for at in [iova, iova + bytes - 8] {
                    let mut machine = service.platform().machine_mut();
                    machine.config_write(device, 4, 6);
                    let result = machine.dma_write(device, at, &[1; 8]);
                    reached.push((at, !result.is_err_and(|why| why.is_by_tables())));
                }
            }
            assert_eq!(service.platform().usage().freed_accesses, 0, "{device}");
            if service.is_waiting() {
                continue;
            }
            // Nothing is under way: each is as the domain says.
            let engine = service.engine();
            let group = engine.group(device).unwrap();
            let domain = group.attached.and_then(|key| engine.domain(key));
            for (at, reached) in reached {
                let found = domain.and_then(|domain| domain.lookup(Iova::new(at)));
                let may = found.is_some_and(|(_, mapping)| mapping.access.may_write());
                assert_eq!(reached, may, "{device} at {at:#x}");
            }
        }
    }
}

fn devices() -> [PciAddress; 2] {
    DEVICES.map(|name| name.replace("--", ":").parse().unwrap())
}

fn header(count: usize, flags: u32) -> BatchHeader {
    BatchHeader {
        count: U32::new(count as u32),
        failed: U32::ZERO,
        errno: U32::ZERO,
        flags: U32::new(flags),
    }
}

fn run(vendor: Vendor, policy: &Policy, steps: &[Step]) {
    let rig = Rig::with(vendor.two_units().with_peer_routing(), policy.clone());
    // The ledger keeps the frames that it has grown by: it grows now to as many records as the quotas allow, which are
    // two for a domain.
    let all = [rig.open(), crate::tickets::open_other(&rig)];
    let domains = all.iter().flat_map(|device| (0..quotas().buffers).map(move |_| device));
    let domains: Vec<_> = domains.map(|device| device.new_domain("full").create()).collect();
    assert!(domains.iter().all(Result::is_ok));
    drop((domains, all));
    let (before, handles) = (rig.usage(), rig.service.lock().handles());
    let mut world = World::default();
    for step in steps {
        world.take(&rig, step);
        world.look(&rig);
    }
    rig.service.lock().platform_mut().limit_frames(usize::MAX);
    while !world.pending.is_empty() {
        let service = &mut *rig.service.lock();
        service.platform_mut().advance_time(Duration::from_micros(100));
        world.poll(service);
    }
    world.look(&rig);
    for held in std::mem::take(&mut world.handles) {
        rig.service.lock().close(held.handle);
    }
    assert_eq!(rig.usage(), before);
    world.look(&rig);
    let service = &mut *rig.service.lock();
    assert_eq!((service.handles(), service.tickets().len()), (handles, 0));
    assert_eq!(service.engine().retired(), 0);
    assert_eq!(service.accounts().iter().count(), 0, "nobody holds anything");
    assert_eq!(service.platform().machine().violations(), Vec::<String>::new());
}

fn random(vendor: Vendor, policy: &Policy) {
    // An AMD unit's device table takes a while to fill.
    let cases = ProptestConfig::with_cases(if vendor == Vendor::Vtd { 100 } else { 40 });
    proptest!(cases, |(steps in steps())| run(vendor, policy, &steps));
}

/// Little enough that they are reached now and then.
fn quotas() -> Quotas {
    Quotas {
        buffers: 12,
        buffer_bytes: 30 * PAGE,
        mapped_bytes: 400 * PAGE,
        iova_bytes: 500 * PAGE,
        mappings: 200,
        page_table_bytes: 40 * PAGE,
        requests: 8,
        operations: 150,
    }
}

fn r2_r3_r4_random_drivers_keep_every_rule(vendor: Vendor) {
    random(vendor, &Policy { quotas: quotas(), ..Policy::default() });
}

fn r2_random_drivers_keep_every_rule_where_unmaps_are_gathered(vendor: Vendor) {
    let invalidation = Invalidation::Deferred;
    random(vendor, &Policy { quotas: quotas(), invalidation, ..Policy::default() });
}
