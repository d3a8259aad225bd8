//! A machine, a service on it, its clients, and what must be true of them after each step.

mod deeds;
mod held;
mod look;
mod places;
mod strict;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dma_types::{Iova, PciAddress};
use fuzz::Chance;
use iommu_engine::domain::DomainKey;
use iommu_engine::platform::{BufferRuns, RunId};
use iommu_engine::policy::{Invalidation, Orphans, Policy, QuarantineAfter, Quotas};
use iommu_service::{Answer, Caller, Completed, HandleId, Outcome, RequestId, Service, Settings};
use iommu_sim::Memory as _;
use iommu_sim::pace::Completion as Takes;
use iommu_sim::pci::ExpressKind;
use iommud::platform::sim::{SimPlatform, Usage};
use libdma::Error;
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, BatchHeader, BufferInfo, DeviceInfo, Hello, MapEntry, Opcode, UNMAPPED,
    UnmapEntry,
};
use libdma::protocol::derive::{Attach, Kind, Restrict};
use libdma::protocol::domain::DomainInfo;
use libdma::protocol::handle::Revoke;
use libdma::protocol::resume::Thing;
use libdma::protocol::{Rights, Secret};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::coverage::Coverage;
use crate::recount::recount;
use crate::requests::reclaim_by;
use crate::vendor::{Vendor, slow_down};
use held::Bounds;
pub(crate) use held::{Held, What};

pub(crate) const PAGE: u64 = 4096;

/// The simulated devices, each behind a unit of its own.
pub(crate) const DEVICES: [&str; 2] = ["0000--00--02.0", "0000--01--00.0"];

/// Who the clients are. The last may open no device, and has what others pass on to it.
const USERS: [u32; 4] = [0, 0, 0, 1000];

/// Of how much that was known once is remembered.
const REMEMBERED: usize = 48;

/// How a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Call(u64),
    Derive,
}

/// What a request that pends is answered with: a handle like this, if with one.
#[derive(Clone, Debug)]
struct Asked {
    made: Held,
    /// What no device reaches from the answer on.
    alone: Vec<Alone>,
}

/// A page of memory of which there was one mapping, a strict one: the buffer's number, and where it is.
type Alone = (u64, u64);

/// Memory of a buffer: the physical address of each of its pages.
#[derive(Debug)]
struct Memory {
    run: RunId,
    /// Whether it was unmapped before anybody was told where it was mapped.
    is_late: bool,
    pages: Vec<u64>,
}

/// A machine, a service, and its clients.
pub(crate) struct World {
    pub(crate) service: Service<SimPlatform>,
    pub(crate) held: Vec<Held>,
    pending: BTreeMap<RequestId, Asked>,
    pub(crate) tickets: Vec<(What, [u8; 16])>,
    /// Numbers of domains that there were.
    pub(crate) domains: Vec<u64>,
    /// Where something was mapped once: domain, address and length.
    pub(crate) known: Vec<(u64, u64, u64)>,
    memory: Vec<Memory>,
    /// The domain and the pieces of memory of batches that were refused: until units have confirmed that they forget it, what
    /// came before the entry that was wrong may be reached somewhere.
    attempts: Vec<(u64, RunId, Range<usize>)>,
    /// The sessions' secrets: of which device, and the session as it was counted here.
    pub(crate) secrets: Vec<(usize, Secret, u64)>,
    /// Numbers of buffers that there were.
    pub(crate) numbers: Vec<u64>,
    /// Which session each of them is of.
    owners: BTreeMap<u64, u64>,
    /// By which handle something was mapped: the domain, the address, and the number of the buffer.
    mapped_by: BTreeMap<(u64, u64, u64), HandleId>,
    /// What each handle was derived from.
    parents: BTreeMap<HandleId, HandleId>,
    /// Tickets that were good once.
    used: Vec<[u8; 16]>,
    /// What was asked, and what came of it.
    coverage: Coverage,
    /// What was last mapped in each page of each domain.
    placed: BTreeMap<(u64, u64), (RunId, usize)>,
    /// What was mapped strictly when it was last mapped: domain, number of the buffer, and address.
    strict: BTreeSet<(u64, u64, u64)>,
    /// The domains that each device may still be translated by.
    inside: [Vec<u64>; 2],
    sessions: u64,
    token: u64,
    base: (usize, Usage),
    most_frames: usize,
    pub(crate) done: u64,
}

/// What a request that fails must not change.
type Digest = (usize, usize, usize, u64);

pub(crate) fn policy(invalidation: Invalidation) -> Policy {
    let quotas = Quotas {
        buffers: 12,
        buffer_bytes: 30 * PAGE,
        mapped_bytes: 400 * PAGE,
        iova_bytes: 500 * PAGE,
        mappings: 200,
        page_table_bytes: 40 * PAGE,
        requests: 8,
        operations: 150,
    };
    let quarantine = Some(QuarantineAfter { faults: 60, within: Duration::from_millis(5) });
    let orphans = Orphans(Duration::from_millis(2));
    Policy { quotas, invalidation, quarantine, orphans, ..Policy::default() }
}

pub(crate) fn devices() -> [PciAddress; 2] {
    DEVICES.map(|name| name.replace("--", ":").parse().unwrap())
}

impl World {
    pub(crate) fn new(vendor: Vendor, invalidation: Invalidation) -> Self {
        let mut machine = vendor.two_units().with_peer_routing();
        for edu in &mut machine.edus {
            // It can be reset.
            edu.express.get_or_insert(ExpressKind::IntegratedEndpoint);
        }
        let platform = SimPlatform::with_manual_clock(machine).unwrap();
        let functions: Vec<_> = platform.machine().functions().collect();
        for function in functions {
            platform.machine_mut().config_write(function, 4, 6);
        }
        let settings = Settings { policy: policy(invalidation), ..Settings::default() };
        let Ok(mut service) = Service::start(platform, settings) else { panic!("no IOMMU") };
        while !service.engine().is_settled() {
            service.platform_mut().advance_time(Duration::from_millis(1));
            service.poll();
        }
        let base = (service.handles(), service.platform().usage());
        Self {
            service,
            held: Vec::new(),
            pending: BTreeMap::new(),
            tickets: Vec::new(),
            domains: Vec::new(),
            known: Vec::new(),
            memory: Vec::new(),
            attempts: Vec::new(),
            secrets: Vec::new(),
            numbers: Vec::new(),
            owners: BTreeMap::new(),
            mapped_by: BTreeMap::new(),
            parents: BTreeMap::new(),
            used: Vec::new(),
            coverage: Coverage::default(),
            placed: BTreeMap::new(),
            strict: BTreeSet::new(),
            inside: [const { Vec::new() }; 2],
            sessions: 0,
            token: 0,
            base,
            most_frames: 0,
            done: 0,
        }
    }

    /// One of the latest handles that are of one of these, mostly, or any.
    pub(crate) fn pick(&self, chance: &mut Chance, kinds: &[What]) -> Option<Held> {
        if chance.once_in(24) {
            return (!self.held.is_empty()).then(|| self.held[chance.below(self.held.len())]);
        }
        let suits = |it: &&Held| kinds.contains(&it.what);
        let count = self.held.iter().filter(suits).count();
        self.held.iter().filter(suits).nth(chance.below(count)).copied()
    }

    /// Opens a path from the root.
    pub(crate) fn open(&mut self, client: usize, path: &str) {
        let root = self.service.root();
        let uid = USERS[client];
        let opened = self.service.open(root, path, Caller { uid });
        self.service.close(root);
        if uid != 0 && opened.is_ok() {
            assert!(!path.starts_with("device/"), "R3: a user without the right opened {path}");
        }
        if !path.starts_with("device/") {
            if let Ok(Outcome::Done(text)) = opened {
                self.service.close(text);
            }
            return;
        }
        self.sessions += 1;
        let made = Held {
            handle: HandleId(0),
            what: What::Device,
            rights: Rights::all(),
            client,
            session: self.sessions,
            domain: 0,
            number: 0,
            run: None,
            bounds: Bounds::NONE,
            parent: None,
        };
        self.made(opened, made);
    }

    /// Makes a request, as it is or as it has become. Says whether it was not refused.
    pub(crate) fn send(&mut self, of: Held, ask: Ask, bytes: &mut Vec<u8>) -> bool {
        let before = self.digest();
        let strictly = self.strictly_unmapped(of, ask, bytes);
        let alone = self.alone(of, ask, bytes);
        let revokes = ask == Ask::Call(Opcode::Revoke as u64);
        let target = Revoke::read_from_prefix(bytes).map_or(0, |(revoke, _)| revoke.handle.get());
        let revocable = if revokes { self.mapped_pages() } else { Vec::new() };
        // The answer overwrites it.
        let ticket = bytes.get(..16).and_then(|it| it.try_into().ok());
        let ticket: Option<[u8; 16]> = ticket.filter(|_| ask == Ask::Call(Opcode::Enter as u64));
        if ask == Ask::Derive || ask == Ask::Call(Opcode::Map as u64) {
            // What is mapped again, if only for a moment, may be reached again.
            self.pending.values_mut().for_each(|asked| asked.alone.clear());
        }
        let refused = match ask {
            Ask::Call(opcode) => match self.service.call(of.handle, opcode, bytes) {
                Err(error) => Some(error),
                Ok(outcome) => {
                    match outcome {
                        Outcome::Done(length) => assert!(length <= bytes.len()),
                        Outcome::Pending(request) => {
                            let alone = alone.clone();
                            self.pending.insert(request, Asked { made: of, alone });
                        }
                    }
                    let refused = refused_batch(opcode, bytes);
                    if refused.is_none() && revokes {
                        self.check_revoked(of, target);
                    }
                    if refused.is_none() {
                        ticket.into_iter().for_each(|ticket| self.use_up(ticket));
                        self.called(of, opcode, bytes);
                        let strictly = strictly.filter(|_| matches!(outcome, Outcome::Done(_)));
                        for (iova, length) in strictly.into_iter().flatten() {
                            self.forget(of.domain, iova, length);
                        }
                        if matches!(outcome, Outcome::Done(_)) {
                            self.check_alone(alone);
                        }
                        if matches!(outcome, Outcome::Done(_)) && !revocable.is_empty() {
                            // No device reaches what was mapped by what was revoked.
                            let still = self.mapped_pages();
                            let gone = |page: &&(u64, u64)| !still.contains(page);
                            for page in revocable.iter().filter(gone) {
                                self.placed.remove(page);
                            }
                        }
                    }
                    refused
                }
            },
            Ask::Derive => {
                let made = self.service.derive(of.handle, bytes);
                let error = made.as_ref().err().copied();
                if error.is_none() {
                    if let Ok((request, _)) = Attach::read_from_prefix(bytes)
                        && request.kind.get() == Kind::Attach as u32
                    {
                        self.use_up(request.ticket);
                    }
                    let like = self.like(of, bytes);
                    self.made(made, like);
                }
                error
            }
        };
        trace(|| format!("{ask:?} by {of:?}: {refused:?} {bytes:x?}"));
        self.coverage.count(ask, bytes, refused);
        if refused.is_some() && ask == Ask::Call(Opcode::Map as u64) {
            self.attempted(of.domain, bytes);
        }
        match refused {
            None => {
                let needed = needed(ask, bytes);
                let may = needed.is_empty() || of.rights.intersects(needed);
                assert!(may, "R3: {ask:?} without {needed:?}, by {of:?}");
                self.done += 1;
            }
            Some(error) => {
                assert_eq!(
                    self.digest(),
                    before,
                    "R7: {ask:?} failed ({error}) and changed something"
                );
            }
        }
        refused.is_none()
    }

    /// What a handle is that was derived by these bytes.
    fn like(&self, of: Held, bytes: &[u8]) -> Held {
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 4).and_then(|it| it.try_into().ok());
            u32::from_le_bytes(bytes.unwrap_or_default())
        };
        let kind = Kind::try_from(word(0));
        let (what, rights) = match kind {
            Ok(Kind::Copy | Kind::Restrict) => (of.what, Rights::from_bits_truncate(word(4))),
            Ok(Kind::Register) => (What::Registration, of.rights),
            Ok(Kind::Attach) => (What::Buffer, Rights::from_bits_truncate(word(8))),
            Ok(Kind::Domain) => (What::Domain, of.rights),
            Ok(Kind::Reclaim) if word(8) == Thing::Domain as u32 => {
                (What::Domain, Rights::from_bits_truncate(word(4)))
            }
            Ok(Kind::Reclaim) => (What::Buffer, Rights::from_bits_truncate(word(4))),
            _ => (What::Buffer, of.rights),
        };
        assert!(
            of.rights.contains(rights) || kind == Ok(Kind::Attach) && what != of.what,
            "R3: a handle with {rights:?} was made of one with {:?}",
            of.rights
        );
        let domain = if what == What::Domain { 0 } else { of.domain };
        let run = if kind == Ok(Kind::Copy) { of.run } else { None };
        let number = if kind == Ok(Kind::Copy) { of.number } else { 0 };
        let bounds = match kind {
            Ok(Kind::Restrict) => {
                let asked = Restrict::read_from_prefix(bytes);
                asked.map_or(of.bounds, |(asked, _)| of.bounds.within(&asked))
            }
            Ok(Kind::Domain | Kind::Reclaim) => Bounds::NONE,
            _ => of.bounds,
        };
        let parent = Some(of.handle);
        Held { what, rights, domain, run, number, bounds, parent, ..of }
    }

    fn made(&mut self, made: Result<Outcome<HandleId>, Error>, like: Held) {
        match made {
            Ok(Outcome::Done(handle)) => self.opened(Held { handle, ..like }),
            Ok(Outcome::Pending(request)) => {
                self.pending.insert(request, Asked { made: like, alone: Vec::new() });
                // It may be mapped already, and be unmapped before it is told.
                self.look_up(like.domain);
            }
            Err(_) => {}
        }
    }

    /// Takes note of a handle that was made, and of what it says of itself.
    fn opened(&mut self, mut held: Held) {
        trace(|| format!("opened {held:?}"));
        let handle = held.handle;
        if let Some(parent) = held.parent {
            self.parents.insert(handle, parent);
        }
        let mut hello = Hello::new();
        let _ = self.service.call(handle, Opcode::Hello as u64, hello.as_mut_bytes());
        let mut device = DeviceInfo::new_zeroed();
        if self.service.call(handle, Opcode::DeviceInfo as u64, device.as_mut_bytes()).is_ok() {
            held.domain = device.domain.get();
            held.what = What::Device;
            let which = devices().iter().position(|it| it.source().get() == device.source.get());
            if let (Some(which), true) = (which, device.secret != Secret::NONE) {
                remember(&mut self.secrets, (which, device.secret, held.session));
            }
            let source = dma_types::SourceId::new(device.source.get());
            let address = PciAddress::from_source(device.segment.get(), source);
            // Its driver lets it be a master.
            self.service.platform().machine_mut().config_write(address, 4, 6);
        }
        let mut domain = DomainInfo::new_zeroed();
        if self.service.call(handle, Opcode::DomainInfo as u64, domain.as_mut_bytes()).is_ok() {
            held.domain = domain.domain.get();
            held.what = What::Domain;
            remember(&mut self.domains, held.domain);
        }
        let mut info = BufferInfo::new_zeroed();
        if self.service.call(handle, Opcode::BufferInfo as u64, info.as_mut_bytes()).is_ok() {
            let rights = Rights::from_bits_retain(info.rights.get());
            assert!(held.rights.contains(rights), "R3: {rights:?} of {held:?}");
            (held.rights, held.number) = (rights, info.buffer.get());
            remember(&mut self.numbers, held.number);
            let owner = *self.owners.entry(held.number).or_insert(held.session);
            assert_eq!(owner, held.session, "R3: {held:?} is another's");
            let (iova, bytes) = (info.iova.get(), info.bytes.get());
            let granted = self.service.grant(handle, 0, bytes, false);
            assert!(granted.is_err() || rights.contains(Rights::READ), "R3: {held:?}");
            if let Ok(grant) = granted {
                held.run = Some(grant.run);
                self.learn(grant.run);
            }
            if iova != UNMAPPED && held.what == What::Buffer {
                held.bounds.check(iova, bytes, 0);
                self.mapped(held.domain, iova, bytes, held.run.map(|run| (run, 0)));
            }
        } else if held.what == What::Buffer {
            self.look_up(held.domain);
        }
        self.held.push(held);
    }
}

/// Why a batch was refused, which its answer says.
fn refused_batch(opcode: u64, answer: &[u8]) -> Option<Error> {
    let batches = [Opcode::Map as u64, Opcode::Unmap as u64];
    let (header, _) = BatchHeader::read_from_prefix(answer).ok()?;
    let errno = header.errno.get();
    (batches.contains(&opcode) && errno != 0).then(|| Error::from_errno(errno as u16))
}

/// The rights of which a request that is done must have had one.
fn needed(ask: Ask, bytes: &[u8]) -> Rights {
    let Ask::Call(opcode) = ask else {
        let kind = bytes.get(..4).and_then(|it| it.try_into().ok()).map(u32::from_le_bytes);
        return match kind.map(Kind::try_from) {
            Some(Ok(Kind::Copy | Kind::Restrict | Kind::Reclaim)) | None | Some(Err(_)) => {
                Rights::empty()
            }
            Some(Ok(Kind::Domain)) => Rights::ATTACH,
            Some(Ok(_)) => Rights::ALLOCATE,
        };
    };
    match Opcode::try_from(opcode) {
        Ok(Opcode::DeviceInfo | Opcode::BufferInfo | Opcode::DomainInfo) => Rights::INSPECT,
        Ok(Opcode::Lookup | Opcode::Next | Opcode::Events) => Rights::INSPECT,
        Ok(Opcode::Map | Opcode::Unmap) => Rights::MAP,
        Ok(Opcode::Enter | Opcode::Leave) => Rights::ATTACH,
        Ok(Opcode::Reset | Opcode::Release) => Rights::ADMINISTER,
        Ok(Opcode::EndResume) => Rights::MAP,
        Ok(Opcode::Offer) => Rights::SHARE,
        _ => Rights::empty(),
    }
}

/// Tells what is done, where somebody replays a failure.
pub(crate) fn trace(what: impl FnOnce() -> String) {
    static REPLAYS: LazyLock<bool> = LazyLock::new(|| std::env::var_os("FUZZ_REPLAY").is_some());
    if *REPLAYS {
        println!("{}", what());
    }
}

/// Adds to what is remembered, and forgets what was longest ago.
fn remember<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        if all.len() >= REMEMBERED {
            all.remove(0);
        }
        all.push(one);
    }
}
