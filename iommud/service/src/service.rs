//! The scheme's behaviour.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use dma_types::PciAddress;
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::domain::DomainKey;
use iommu_engine::engine::Engine;
use iommu_engine::engine::chain::ChainPiece;
use iommu_engine::error::StartError;
use iommu_engine::machine::GroupId;
use iommu_engine::platform::Platform;
use iommu_engine::policy::{Invalidation, Policy, Resource};
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::Opcode;

use crate::account::{AccountId, Accounts, Usage};
use crate::calls::Answered;
use crate::faults::fault_log::FaultLog;
use crate::faults::quarantine::Quarantine;
use crate::faults::storms::Storms;
use crate::handles::handle::{Handle, HandleId, Handles, Object};
use crate::handles::tickets::Tickets;
use crate::memory::peer_bars::{PeerBar, PeerBarId};
use crate::memory::runs::Runs;
use crate::memory::unmap::Known;
use crate::node::{Node, Report};
use crate::pending::{Answer, Completed, Outcome, Pending, RequestId, Undo, Waiting};
use crate::report;
use crate::sessions::domains::ExplicitDomain;
use crate::sessions::numbers::Numbers;
use crate::sessions::openings::Openings;
use crate::sessions::reset::Resets;
use crate::sessions::session::Sessions;

/// Who makes a request, as the operating system vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub uid: u32,
}

impl Caller {
    /// Whether it may open devices, and see physical addresses. Which process it is does not matter: a
    /// process id is not an authority.
    pub const fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// What the daemon was told and what it found, for the report.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Names and values, in the order in which they are shown.
    pub lines: Vec<(&'static str, String)>,
    /// What the administrator decided.
    pub policy: Policy,
}

/// A request that waits.
pub(crate) const ONE_REQUEST: Usage = Usage::NONE.with(Resource::Requests, 1);

/// The scheme's behaviour, on a platform.
#[derive(Debug)]
pub struct Service<P> {
    pub(crate) platform: P,
    pub(crate) engine: Engine,
    pub(crate) handles: Handles,
    pub(crate) sessions: Sessions,
    /// The domains that clients have made.
    pub(crate) domains: BTreeMap<DomainKey, ExplicitDomain>,
    /// The memory of the buffers.
    pub(crate) runs: Runs,
    pub(crate) tickets: Tickets,
    pub(crate) peer_bars: BTreeMap<PeerBarId, PeerBar>,
    /// What units have yet to confirm before no peer reaches these devices' BARs by what has ended.
    pub(crate) reached: BTreeMap<PciAddress, Completion>,
    /// Who holds how much.
    pub(crate) accounts: Accounts,
    pub(crate) pending: Pending,
    pub(crate) resets: Resets,
    pub(crate) openings: Openings,
    pub(crate) faults: FaultLog,
    /// How many faults of whom there were.
    pub(crate) storms: Storms,
    /// Groups that reach nothing for what they did.
    pub(crate) quarantines: BTreeMap<GroupId, Quarantine>,
    /// Whether a session may have something to be read that its handles have not been told of.
    pub(crate) untold: bool,
    pub(crate) fault_interrupts: u64,
    pub(crate) settings: Settings,
    pub(crate) numbers: Numbers,
    /// How many daemons there were before this one from which each adopted what the one before had.
    pub(crate) incarnation: u64,
    /// These are reused from request to request.
    pub(crate) pieces: Vec<ChainPiece>,
    pub(crate) known: Vec<Known>,
}

impl<P: Platform> Service<P> {
    /// Finds the machine's IOMMUs and begins to bring them up; see [`Engine::start`].
    ///
    /// # Errors
    ///
    /// [`StartError`], with the platform given back.
    pub fn start(mut platform: P, settings: Settings) -> Result<Self, (StartError, P)> {
        let has_predecessor = platform.inherited();
        match Engine::start(&mut platform, settings.policy.clone()) {
            Ok(engine) => {
                let mut service = Self::empty(platform, engine, settings);
                if has_predecessor {
                    service.count_elsewhere();
                }
                Ok(service)
            }
            Err(error) => Err((error, platform)),
        }
    }

    /// A service of which nobody has a handle yet.
    pub(crate) fn empty(platform: P, engine: Engine, settings: Settings) -> Self {
        Self {
            platform,
            engine,
            handles: Handles::default(),
            sessions: Sessions::default(),
            domains: BTreeMap::new(),
            runs: Runs::default(),
            tickets: Tickets::default(),
            peer_bars: BTreeMap::new(),
            reached: BTreeMap::new(),
            accounts: Accounts::default(),
            pending: Pending::default(),
            resets: Resets::default(),
            openings: Openings::default(),
            faults: FaultLog::default(),
            storms: Storms::default(),
            quarantines: BTreeMap::new(),
            untold: false,
            fault_interrupts: 0,
            settings,
            numbers: Numbers::default(),
            incarnation: 0,
            pieces: Vec::new(),
            known: Vec::new(),
        }
    }

    /// The platform, for the transport: it knows where buffers are.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The platform, to change: the simulator's clock and devices.
    pub fn platform_mut(&mut self) -> &mut P {
        &mut self.platform
    }

    /// Ends the service, without a word to the hardware: what it was told stays.
    pub fn into_platform(self) -> P {
        self.platform
    }

    /// The machine, to look at.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The latest blocked accesses.
    pub fn faults(&self) -> &FaultLog {
        &self.faults
    }

    /// What handles offer, and nobody has used yet.
    pub fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// Who holds how much.
    pub fn accounts(&mut self) -> &Accounts {
        self.balance();
        &self.accounts
    }

    /// The sessions and their buffers.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The parts of devices' BARs that others reach.
    pub fn peer_bars(&self) -> impl Iterator<Item = &PeerBar> {
        self.peer_bars.values()
    }

    /// The domains that clients have made.
    pub fn explicit_domains(&self) -> impl Iterator<Item = (DomainKey, &ExplicitDomain)> {
        self.domains.iter().map(|(key, domain)| (*key, domain))
    }

    /// The requests that wait for hardware.
    pub fn pending(&self) -> &Pending {
        &self.pending
    }

    /// How many daemons there were before this one from which each adopted what the one before had.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// How many handles are open.
    pub fn handles(&self) -> usize {
        self.handles.len()
    }

    /// Goes on with what is under way, reads the units' faults, and gives every request that is pending no
    /// more.
    pub fn poll(&mut self) -> Vec<Completed> {
        self.engine.poll(&mut self.platform);
        self.log_faults();
        self.end_unclaimed();
        self.go_on_resetting();
        self.go_on_opening();
        let mut completed = self.pending.take_answered();
        while let Some((request, waiting, progress)) =
            self.pending.take(|completion| self.engine.progress(completion))
        {
            let Waiting { account, answer, undo, .. } = waiting;
            self.accounts.release(account, &ONE_REQUEST);
            let result = match (progress, answer) {
                (Progress::Done, answer) => {
                    if let Answer::Handle(handle) = answer {
                        self.opened(handle);
                    }
                    Ok(answer)
                }
                (_, Answer::Handle(handle)) => {
                    self.close(handle);
                    Err(Error::TimedOut)
                }
                (_, Answer::Payload(_)) => {
                    for (space, ranges) in undo {
                        // The unit has failed: what can be taken back is, and its memory is kept for good.
                        let _ = self.unmap_ranges(space, &ranges, Invalidation::Deferred);
                    }
                    Err(Error::TimedOut)
                }
            };
            completed.push(Completed { request, result });
        }
        self.settle();
        completed
    }

    /// Whether hardware is being waited for, or a device is being reset, so that [`poll`](Self::poll) is due soon and not only when
    /// there may be faults.
    pub fn is_waiting(&self) -> bool {
        self.engine.is_waiting() || !self.pending.is_empty() || self.resets.is_any()
    }

    /// Whether [`poll`](Self::poll) is due now and then, since some unit does not interrupt when it has a fault, or is not
    /// to record any of some device for a while, or something of before a restart waits for its client.
    pub fn wants_polling(&self) -> bool {
        self.engine.wants_polling() || self.storms.silences_any() || self.has_unclaimed()
    }

    /// Takes note of so many interrupts of units that have faults. [`poll`](Self::poll) is due at once.
    pub fn count_fault_interrupts(&mut self, interrupts: u64) {
        self.fault_interrupts = self.fault_interrupts.saturating_add(interrupts);
    }

    /// A handle to the scheme's root, for a client that has just come.
    pub fn root(&mut self) -> HandleId {
        self.handles.insert(Handle::greeted(Object::Root, Rights::empty()))
    }

    /// A handle to the scheme's root that has the [number](HandleId::FIRST) that it has in every daemon, adopted or not, as
    /// long as nothing else has been opened.
    pub fn first_root(&mut self) -> HandleId {
        self.handles.insert_first(Handle::greeted(Object::Root, Rights::empty()))
    }

    /// Opens a path from the root.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPath`], [`Error::NotPermitted`] by the caller's uid, [`Error::WrongHandleKind`] if
    /// `directory` is not the root; for a device also [`Error::DeviceBusy`], [`Error::NoSuchDevice`],
    /// [`Error::UnitFailed`], [`Error::OutOfMemory`].
    pub fn open(
        &mut self,
        directory: HandleId,
        path: &str,
        caller: Caller,
    ) -> Result<Outcome<HandleId>, Error> {
        if !matches!(self.handles.get(directory)?.object, Object::Root) {
            return Err(Error::WrongHandleKind);
        }
        match Node::parse(path)? {
            Node::Report(Report::Mappings, _) if !caller.is_root() => Err(Error::NotPermitted),
            Node::Report(report, form) => {
                self.log_faults();
                self.balance();
                let object = Object::Text(report::write(self, report, form));
                let handle = Handle::greeted(object, Rights::INSPECT).of(caller.uid);
                Ok(Outcome::Done(self.handles.insert(handle)))
            }
            Node::Device(_) | Node::Resume(_) | Node::Quarantine(_) if !caller.is_root() => {
                Err(Error::NotPermitted)
            }
            Node::Device(address) => self.open_in_turn(directory, address, caller),
            Node::Resume(address) => Ok(Outcome::Done(self.open_resume(address, caller.uid))),
            Node::Quarantine(address) => {
                self.engine.device(address).ok_or(Error::NoSuchDevice)?;
                let handle = Handle::greeted(Object::Quarantine(address), Rights::ADMINISTER);
                Ok(Outcome::Done(self.handles.insert(handle.of(caller.uid))))
            }
        }
    }

    /// Makes a call on a handle. The answer overwrites the payload; how long it is, if the call is done.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownCall`], [`Error::WrongHandleKind`], [`Error::ShortPayload`], [`Error::NoHandshake`],
    /// [`Error::NotPermitted`] by the handle's rights, and what the call itself can fail with.
    #[inline]
    pub fn call(
        &mut self,
        handle: HandleId,
        opcode: u64,
        payload: &mut [u8],
    ) -> Result<Outcome<usize>, Error> {
        const MAP: u64 = Opcode::Map as u64;
        const UNMAP: u64 = Opcode::Unmap as u64;
        let done = match opcode {
            MAP => self.map_quickly(handle, payload).map(Ok),
            UNMAP => self.unmap_quickly(handle, payload),
            _ => None,
        };
        match done {
            Some(done) => done,
            None => self.call_any(handle, opcode, payload),
        }
    }

    /// The same of calls that are not what most are.
    #[inline(never)]
    fn call_any(
        &mut self,
        handle: HandleId,
        opcode: u64,
        payload: &mut [u8],
    ) -> Result<Outcome<usize>, Error> {
        match Opcode::try_from(opcode)? {
            Opcode::Map => self.map_batch(handle, payload),
            Opcode::Unmap => self.unmap_batch(handle, payload),
            Opcode::Reset => self.reset(handle, payload),
            opcode => {
                // These may wait for hardware. Maps and unmaps look at this limit with the others.
                if let Opcode::Enter | Opcode::Leave = opcode
                    && let Some(account) = self.account_of(handle)?
                {
                    self.claim(account, &ONE_REQUEST)?;
                }
                let answered = self.dispatch(handle, opcode, payload)?;
                Ok(self.conclude(handle, answered, payload))
            }
        }
    }

    /// Answers now, or when hardware has confirmed.
    pub(crate) fn conclude(
        &mut self,
        handle: HandleId,
        answered: Answered,
        payload: &[u8],
    ) -> Outcome<usize> {
        let Answered { length, completion, undo } = answered;
        if self.is_done(&completion) {
            return Outcome::Done(length);
        }
        let answer = Answer::Payload(payload.get(..length).unwrap_or_default().to_vec());
        Outcome::Pending(self.wait(handle, completion, answer, undo))
    }

    /// Reads a text node from `offset` on; zero bytes at its end.
    ///
    /// # Errors
    ///
    /// [`Error::WrongHandleKind`] if it is not one.
    pub fn read(&self, handle: HandleId, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        let Object::Text(text) = &self.handles.get(handle)?.object else {
            return Err(Error::WrongHandleKind);
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let rest = &text.as_bytes()[start..];
        let length = rest.len().min(out.len());
        out[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    /// How long a text node is, or a buffer.
    ///
    /// # Errors
    ///
    /// [`Error::WrongHandleKind`] for what has no length.
    pub fn length(&self, handle: HandleId) -> Result<u64, Error> {
        match &self.handles.get(handle)?.object {
            Object::Text(text) => Ok(text.len() as u64),
            Object::Buffer(id) => {
                self.sessions.buffers.get(id).map(|buffer| buffer.bytes).ok_or(Error::BadHandle)
            }
            Object::Root
            | Object::Device(_)
            | Object::Domain(_)
            | Object::PeerBar(_)
            | Object::Resume(_)
            | Object::Quarantine(_)
            | Object::Registration(..) => Err(Error::WrongHandleKind),
        }
    }

    /// Whether a handle is open, be it revoked. One to resume a session by may be closed for
    /// [another](crate::sessions::orphans::MOST_RESUMES).
    pub fn is_open(&self, handle: HandleId) -> bool {
        self.handles.entry(handle).is_some()
    }

    /// Closes a handle: the end of what only it held (rule R4).
    pub fn close(&mut self, handle: HandleId) {
        self.tickets.handle_closed(handle);
        let Some((entry, gone)) = self.handles.close(handle) else { return };
        self.leave_mappings_to_heirs(&gone);
        let was_revoked = entry.is_revoked();
        self.end_account(entry.handle.bounds.account);
        match entry.handle.object {
            Object::Buffer(buffer) => self.close_buffer(buffer, was_revoked),
            // It was closed when it was revoked.
            _ if was_revoked => {}
            object => drop(self.close_object(&object)),
        }
    }

    /// Closes an account with a quota of its own, if no handle has it any more.
    fn end_account(&mut self, account: Option<AccountId>) {
        let Some(account) = account else { return };
        let has_it = |handle: &Handle| handle.bounds.account == Some(account);
        if !self.handles.entries().any(|(_, entry)| has_it(&entry.handle)) {
            self.close_account(account);
        }
    }

    /// Counts a handle of what is no buffer no more. From the completion on, no device reaches anything by what ended with
    /// that.
    pub(crate) fn close_object(&mut self, object: &Object) -> Completion {
        match object {
            Object::Device(session) => self.close_device(*session),
            Object::Domain(domain) => return self.close_domain(*domain),
            Object::PeerBar(peer_bar) => return self.close_peer_bar(*peer_bar),
            Object::Buffer(_)
            | Object::Root
            | Object::Text(_)
            | Object::Resume(_)
            | Object::Quarantine(_)
            | Object::Registration(..) => {}
        }
        Completion::none()
    }

    /// Answers with a handle, now or when hardware has confirmed.
    pub(crate) fn answer_handle(
        &mut self,
        handle: HandleId,
        completion: Completion,
    ) -> Outcome<HandleId> {
        if self.is_done(&completion) {
            return Outcome::Done(handle);
        }
        Outcome::Pending(self.wait(handle, completion, Answer::Handle(handle), Vec::new()))
    }

    /// Keeps an answer back, to a request on this handle or of it, until `completion` is done.
    pub(crate) fn wait(
        &mut self,
        by: HandleId,
        completion: Completion,
        answer: Answer,
        undo: Undo,
    ) -> RequestId {
        let account = self.account_of(by).ok().flatten().unwrap_or(AccountId::NOBODY);
        self.accounts.add(account, &ONE_REQUEST);
        self.pending.put(Waiting { by, account, completion, answer, undo })
    }

    /// Whether a completion is done. Hardware is often done at once, so it is asked once more if not.
    pub(crate) fn is_done(&mut self, completion: &Completion) -> bool {
        if self.is_confirmed(completion) {
            return true;
        }
        self.engine.poll(&mut self.platform);
        self.is_confirmed(completion)
    }

    /// Whether units have confirmed it, as far as is known.
    #[inline]
    pub(crate) fn is_confirmed(&self, completion: &Completion) -> bool {
        completion.is_none() || self.engine.progress(completion) == Progress::Done
    }
}
