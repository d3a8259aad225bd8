//! The machine on which clients die, and everything that is counted in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use iommu_engine::ledger::Ledger;
use iommu_engine::policy::{Policy, Resource};
use iommu_engine::records::{AttachmentRecord, DomainRecord};
use iommu_service::account::Usage;
use iommu_service::records::{BufferRecord, ExplicitRecord, SessionRecord};
use iommu_service::{Answer, Completed, RequestId, Service, Settings};
use iommu_sim::MachineConfig;
use iommud::platform::sim::{SimPlatform, Usage as Memory};
use libdma::Error;
use simulated::edu;
use spin::{Mutex, MutexGuard};

use crate::recount::recount;
use fuzz::Chance;

/// Registers of the device: where it is to read and write, how much, and that it is to do so.
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
/// Where its own buffer is for it.
const BUFFER: u64 = 0x40000;

/// What time passes while somebody waits, in nanoseconds.
const TICK: u64 = 5_000;

/// The service with its machine, and answers that are under way.
pub(crate) struct World(Mutex<Inner>);

/// The same, for one request.
pub(crate) struct Inner {
    pub(crate) service: Service<SimPlatform>,
    answers: BTreeMap<RequestId, Result<Answer, Error>>,
    /// Requests that pend and whose client is dead.
    pub(crate) orphans: BTreeSet<RequestId>,
    chance: Chance,
    /// Where the device could once write.
    known: Vec<u64>,
    bar: u64,
}

/// Everything that a dead client could leave behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    usage: Memory,
    handles: usize,
    tickets: usize,
    retired: usize,
    orphans: usize,
    answers: usize,
    /// Of buffers, sessions, explicit domains, domains and attachments, in the ledger.
    records: [usize; 5],
    /// What is mapped in each domain, how many mappings and bytes, and what is taken of its addresses, how many pieces and
    /// bytes.
    domains: Vec<(usize, u64, (u64, u64))>,
    /// Of sessions, buffers, explicit domains, windows of registers and requests that pend.
    things: [usize; 5],
    /// What each account holds.
    accounts: Vec<[u64; Resource::ALL.len()]>,
    /// Runs of the device that wait to be free.
    waiting: usize,
}

impl World {
    /// A machine with this policy, whose time passes by itself alone.
    pub(crate) fn start(config: MachineConfig, policy: Policy, chance: Chance) -> Arc<Self> {
        let bar = u64::from(config.edus[0].bar);
        let platform = SimPlatform::with_manual_clock(config).unwrap();
        let Ok(service) = Service::start(platform, Settings { lines: Vec::new(), policy }) else {
            panic!("no IOMMU");
        };
        let (answers, orphans, known) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        let mut inner = Inner { service, answers, orphans, chance, known, bar };
        while !inner.service.engine().is_settled() {
            inner.pass(TICK);
            inner.poll();
        }
        Arc::new(Self(Mutex::new(inner)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    /// The answer to a request, when hardware has confirmed it.
    pub(crate) fn wait(inner: &mut Inner, request: RequestId) -> Result<Answer, Error> {
        loop {
            if let Some(answer) = inner.answers.remove(&request) {
                return answer;
            }
            inner.pass(TICK);
            inner.poll();
        }
    }
}

impl Inner {
    /// What the daemon does when nobody asks for anything.
    pub(crate) fn poll(&mut self) {
        for Completed { request, result } in self.service.poll() {
            if !self.orphans.remove(&request) {
                self.answers.insert(request, result);
            } else if let Ok(Answer::Handle(handle)) = result {
                // There is nobody to have it.
                self.service.close(handle);
            }
        }
    }

    /// Lets time pass, and what is due happen.
    pub(crate) fn pass(&mut self, nanoseconds: u64) {
        self.service.platform_mut().advance_time(Duration::from_nanos(nanoseconds));
    }

    /// Takes note of addresses that the device was told.
    pub(crate) fn knows(&mut self, iova: u64, bytes: u64) {
        let pages = bytes.div_ceil(4096);
        self.known.extend((0..pages.min(4)).map(|page| iova + page * 4096));
    }

    /// Addresses that the device has been told, no matter by whom, the latest first, or any.
    fn somewhere(&mut self) -> Option<u64> {
        let latest = self.known.len().saturating_sub(24);
        let from = if self.chance.once_in(4) { 0 } else { latest };
        (from < self.known.len()).then(|| self.chance.one_of(&self.known[from..]))
    }

    /// The device, which nothing keeps from making requests, reaches for what it was told once.
    pub(crate) fn touch(&mut self) {
        self.be_master();
        for _ in 0..8 {
            let Some(at) = self.somewhere() else { return };
            let machine = &mut self.service.platform().machine_mut();
            // It is not told if it is blocked.
            let _ = if self.chance.once_in(3) {
                machine.dma_read(edu(), at, &mut [0; 8])
            } else {
                machine.dma_write(edu(), at, &[0xd1; 8])
            };
        }
    }

    /// Has the device reach for what it was told once whenever somebody touches a register, too.
    pub(crate) fn touch_between(&mut self, times: usize) {
        self.be_master();
        let addresses: Vec<_> = (0..times).map(|_| self.somewhere()).collect();
        self.service.platform_mut().write_between(edu(), addresses);
    }

    /// Lets the device's own engine move something, which takes it a while.
    pub(crate) fn transfer(&mut self) {
        let Some(at) = self.somewhere() else { return };
        let (bar, to_memory) = (self.bar, self.chance.once_in(2));
        let (source, destination) = if to_memory { (BUFFER, at) } else { (at, BUFFER) };
        let command = if to_memory { 3 } else { 1 };
        let mut machine = self.service.platform().machine_mut();
        for (register, value) in
            [(SOURCE, source), (DESTINATION, destination), (COUNT, 512), (COMMAND, command)]
        {
            machine.mmio_write(bar + register, 8, value);
        }
    }

    /// Whether the device's own engine is at work.
    pub(crate) fn is_in_transfer(&mut self) -> bool {
        let bar = self.bar;
        self.service.platform().machine_mut().mmio_read(bar + COMMAND, 8) & 1 == 1
    }

    /// Everything of before is forgotten by everybody, as soon as hardware lets it.
    pub(crate) fn settle(&mut self) {
        while self.service.is_waiting() {
            self.pass(TICK);
            self.poll();
        }
        self.poll();
    }

    /// The device reaches for everything that it was ever told, and must not get any of it.
    pub(crate) fn assert_out_of_reach(&mut self) {
        self.be_master();
        for at in std::mem::take(&mut self.known) {
            let machine = &mut self.service.platform().machine_mut();
            let written = machine.dma_write(edu(), at, &[0xd1; 8]);
            let read = machine.dma_read(edu(), at, &mut [0; 8]);
            for reached in [written, read] {
                assert!(reached.is_err_and(|why| why.is_by_tables()), "{at:#x}: {reached:?}");
            }
        }
    }

    pub(crate) fn counts(&mut self) -> Counts {
        recount(&mut self.service);
        let held = |held: &Usage| Resource::ALL.map(|resource| held.of(resource));
        let mut accounts: Vec<_> =
            self.service.accounts().iter().map(|(_, account)| held(&account.held)).collect();
        accounts.sort_unstable();
        let platform = self.service.platform();
        let engine = self.service.engine();
        let domains = engine.domains();
        let mut domains: Vec<_> = domains
            .map(|(_, it)| (it.mappings().count(), it.mapped_bytes(), it.taken_addresses()))
            .collect();
        domains.sort_unstable();
        Counts {
            usage: platform.usage(),
            handles: self.service.handles(),
            tickets: self.service.tickets().len(),
            retired: engine.retired(),
            orphans: self.orphans.len(),
            answers: self.answers.len(),
            records: [
                Ledger::records::<BufferRecord>(platform).unwrap().len(),
                Ledger::records::<SessionRecord>(platform).unwrap().len(),
                Ledger::records::<ExplicitRecord>(platform).unwrap().len(),
                Ledger::records::<DomainRecord>(platform).unwrap().len(),
                Ledger::records::<AttachmentRecord>(platform).unwrap().len(),
            ],
            domains,
            things: [
                self.service.sessions().sessions.len(),
                self.service.sessions().buffers.len(),
                self.service.explicit_domains().count(),
                self.service.peer_bars().count(),
                self.service.pending().len(),
            ],
            accounts,
            waiting: engine.retired_list().filter(|retired| retired.run.is_some()).count(),
        }
    }

    /// That no hardware has anything to complain about.
    pub(crate) fn check(&self) {
        let platform = self.service.platform();
        let usage = platform.usage();
        assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0));
        assert_eq!(platform.spoilt_frames(), 0, "a free frame was written to");
        assert_eq!(platform.machine().violations(), Vec::<String>::new());
    }

    fn be_master(&mut self) {
        make_masters(&mut self.service);
    }
}

/// Lets all functions make requests.
pub(crate) fn make_masters(service: &mut Service<SimPlatform>) {
    let machine = &mut service.platform().machine_mut();
    let all: Vec<_> = machine.functions().collect();
    for function in all {
        machine.config_write(function, 4, 6);
    }
}
