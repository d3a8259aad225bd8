//! Sessions of before a restart, which wait for their clients.
//!
//! A session that was adopted is an *orphan*: its device is attached and its buffers are mapped as they were, and there is no
//! handle to it. Who knows its secret resumes it, and reclaims what it has; see [`libdma::protocol::resume`]. What nobody has
//! claimed by the policy's deadline ends as if its client had died (rule R4).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use dma_types::PciAddress;
use iommu_engine::completion::Progress;
use iommu_engine::domain::DomainKey;
use iommu_engine::platform::{Instant, Platform};
use iommu_engine::policy::Invalidation;
use libdma::Error;
use libdma::protocol::resume::{Reclaim, Resume, Resumed, Thing};
use libdma::protocol::{Rights, Secret};
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use crate::calls::{Answered, answer};
use crate::faults::events::{Entry, What};
use crate::handles::handle::{Handle, HandleId, Handles, Object};
use crate::handles::tickets::Tickets;
use crate::handles::tree::DoneBy;
use crate::memory::mappings::{Space, mapped_bytes};
use crate::memory::peer_bars::PeerBarId;
use crate::pending::Pending;
use crate::service::{ONE_REQUEST, Service};
use crate::sessions::openings::Openings;
use crate::sessions::session::{BufferId, Session, SessionId};

/// The most handles at a time by which a session of the same device may be resumed.
pub const MOST_RESUMES: usize = 16;

/// What a session has from before that nobody has claimed.
#[derive(Debug)]
pub struct Orphaned {
    /// Since when it waits.
    pub since: Instant,
    /// The buffers.
    buffers: BTreeSet<BufferId>,
    /// The parts of other devices' BARs.
    peer_bars: BTreeSet<PeerBarId>,
    /// The explicit domains.
    domains: BTreeSet<DomainKey>,
}

impl Session {
    /// Whether it waits for its client.
    pub fn is_orphan(&self) -> bool {
        self.handles == 0
    }
}

impl<P: Platform> Service<P> {
    /// Makes every session an orphan: whoever had handles is a client of a daemon that is gone. What belongs to no session
    /// any more is given back, for nobody can ask for it. Numbers go on from what the ledger says.
    pub fn orphan_all(&mut self) {
        self.count_on();
        // Nobody has handles with a quota of their own any more.
        for (_, entry) in self.handles.entries() {
            entry.handle.bounds.account.into_iter().for_each(|it| self.accounts.close(it));
        }
        self.handles = Handles::since(self.incarnation);
        self.tickets = Tickets::default();
        while let Some((_, waiting, _)) = self.pending.take(|_| Progress::Done) {
            self.accounts.release(waiting.account, &ONE_REQUEST);
        }
        self.pending = Pending::default();
        self.resets.forget_requests();
        self.openings = Openings::default();
        let since = self.platform.now();
        let Self { sessions, peer_bars, domains, .. } = self;
        for session in sessions.sessions.values_mut() {
            session.handles = 0;
            session.orphaned = Some(Orphaned {
                since,
                buffers: session.buffers.clone(),
                peer_bars: session.peer_bars.clone(),
                domains: session.domains.clone(),
            });
        }
        peer_bars.values_mut().for_each(|peer_bar| peer_bar.handles = 0);
        domains.values_mut().for_each(|domain| domain.handles = 0);
        let mut left = Vec::new();
        for (id, buffer) in sessions.buffers.iter_mut() {
            (buffer.handles, buffer.revoked) = (0, 0);
            if buffer.session.is_none() {
                buffer.handles = 1;
                left.push(*id);
            }
        }
        left.sort_unstable();
        left.into_iter().for_each(|id| self.close_buffer(id, false));
        // Were there no memory for that, the next number that is needed would be refused.
        let _ = self.set_numbers_aside();
    }

    /// How many sessions wait for their clients.
    pub fn orphans(&self) -> usize {
        self.sessions.sessions.values().filter(|session| session.is_orphan()).count()
    }

    /// Whether something of before waits to be claimed, so that a [`poll`](Self::poll) is due now and then.
    pub(crate) fn has_unclaimed(&self) -> bool {
        self.sessions.sessions.values().any(|session| session.orphaned.is_some())
    }

    /// Ends what has waited for its client until the deadline.
    pub(crate) fn end_unclaimed(&mut self) {
        if !self.has_unclaimed() {
            return;
        }
        let late = |session: &Session| session.orphaned.as_ref().is_some_and(|it| self.is_late(it));
        let sessions = self.sessions.sessions.iter().filter(|(_, session)| late(session));
        for id in sessions.map(|(id, _)| *id).collect::<Vec<_>>() {
            let Some(session) = self.sessions.sessions.get_mut(&id) else { continue };
            if session.is_orphan() {
                session.handles = 1;
                self.close_device(id);
            } else {
                self.give_up(id, false);
            }
        }
    }

    /// Whether its client had time enough to come back.
    fn is_late(&self, orphaned: &Orphaned) -> bool {
        self.platform.now().since(orphaned.since) >= self.settings.policy.orphans.0
    }

    /// Gives up what a resumed session has not reclaimed: because its client has said so, or waits too long.
    fn give_up(&mut self, id: SessionId, is_said: bool) {
        let orphaned = self.sessions.sessions.get_mut(&id).and_then(|it| it.orphaned.take());
        let Some(Orphaned { buffers, peer_bars, domains, .. }) = orphaned else { return };
        for id in peer_bars {
            // It may have ended with the other session that it was of.
            let Some(peer_bar) = self.peer_bars.get_mut(&id) else { continue };
            peer_bar.handles = 1;
            let _ = self.close_peer_bar(id);
        }
        for key in domains {
            let Some(domain) = self.domains.get_mut(&key) else { continue };
            domain.handles = 1;
            let _ = self.close_domain(key);
        }
        for buffer in buffers {
            if is_said && !self.engine.has_iommu() {
                self.unmap_given_up(id, buffer);
            }
            let Some(held) = self.sessions.buffers.get_mut(&buffer) else { continue };
            held.handles = 1;
            self.close_buffer(buffer, false);
        }
    }

    /// Unmaps what a client has said that it does not want, for its device does not use it any more. Only of one that says
    /// nothing is it not known what its device does.
    fn unmap_given_up(&mut self, session: SessionId, buffer: BufferId) {
        let Some(buffer) = self.sessions.buffers.get(&buffer) else { return };
        for at in buffer.mappings.keys().copied().collect::<Vec<_>>() {
            // What cannot be unmapped is kept until the session ends.
            let space = Space { session, domain: at.0, within: None };
            let range = (at.1, mapped_bytes(&self.engine, at));
            let _ = self.unmap_ranges(space, &[range], Invalidation::Deferred);
        }
    }

    /// Makes a handle by which a session of this device may be resumed. Who may open nothing else may open many of these
    /// (`iommu-run`), and there are to be no more than a driver can need: the oldest is closed for one too many, so that
    /// nobody who keeps them open keeps the driver from its session.
    pub(crate) fn open_resume(&mut self, address: PciAddress, uid: u32) -> HandleId {
        let is_same = |object: &Object| matches!(object, Object::Resume(of) if *of == address);
        let open = self.handles.entries().filter(|(_, entry)| is_same(&entry.handle.object));
        let open: Vec<_> = open.map(|(id, _)| id).collect();
        // Numbers are given out in order.
        if let (Some(oldest), MOST_RESUMES..) = (open.first(), open.len()) {
            self.close(*oldest);
        }
        self.handles.insert(Handle::new(Object::Resume(address), Rights::empty()).of(uid))
    }

    /// Makes a handle that was opened for it one of the session that waits for this secret.
    pub(crate) fn resume(&mut self, id: HandleId, payload: &mut [u8]) -> Result<Answered, Error> {
        let handle = self.handles.get(id)?;
        let Object::Resume(address) = handle.object else {
            return Err(Error::WrongHandleKind);
        };
        handle.require(Rights::empty())?;
        let (request, _) = Resume::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let waits = |session: &Session| {
            let in_time = session.orphaned.as_ref().is_some_and(|it| !self.is_late(it));
            session.is_orphan() && in_time
        };
        let found = self.sessions.of_device(address);
        // As long is looked at where nobody waits.
        let is_known = request.secret.is(found.map_or(&Secret::NONE, |(_, it)| &it.secret));
        let found = found.filter(|(_, session)| is_known && waits(session));
        let (session, _) = found.ok_or(Error::NotYours)?;
        if !self.engine.is_settled() || self.resets.has(address) {
            // What hardware knows of before it may know still, and nothing can be mapped. What is set up in a device that is
            // being reset is lost.
            return Err(Error::NotReady);
        }
        self.set_numbers_aside()?;
        let generation = self.next_generation_of(session).ok_or(Error::NotYours)?;
        let what = What::Restarted { generation };
        self.tell(session, Entry { at: self.platform.now(), what });
        self.tell_of_quarantine(session);
        let resumed = Resumed { generation: U64::new(generation), reserved: U64::ZERO };
        let answered = answer(payload, &resumed)?;
        if let Some(session) = self.sessions.sessions.get_mut(&session) {
            session.handles = 1;
            if let Some(inside) = &mut session.entered {
                inside.by = [DoneBy::itself(id); 2];
            }
            for buffer in &session.buffers {
                let Some(buffer) = self.sessions.buffers.get_mut(buffer) else { continue };
                // Whichever handle of before they were made by.
                buffer.mappings.makers_mut().for_each(|by| *by = DoneBy::itself(id));
            }
        }
        if let Ok(handle) = self.handles.get_mut(id) {
            handle.object = Object::Device(session);
            handle.rights = Rights::DEVICE;
        }
        Ok(answered)
    }

    /// Says that a resumed session has reclaimed all that it wants.
    pub(crate) fn end_resume(&mut self, handle: HandleId) -> Result<Answered, Error> {
        let session = self.device_of(handle, Rights::DEVICE)?;
        self.give_up(session, true);
        Ok(Answered::now(0))
    }

    /// Makes a handle to something that a session has from before, for a handle of it with `held` rights.
    pub(crate) fn reclaim(
        &mut self,
        (session, by): (SessionId, HandleId),
        request: &Reclaim,
        held: Rights,
    ) -> Result<HandleId, Error> {
        let rights = Rights::from_bits(request.rights.get()).ok_or(Error::BadValue)?;
        let thing = Thing::try_from(request.thing.get())?;
        if request.reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        let number = request.number.get();
        let Self { sessions, peer_bars, domains, .. } = self;
        let orphaned = sessions.sessions.get_mut(&session).and_then(|it| it.orphaned.as_mut());
        let orphaned = orphaned.ok_or(Error::NotYours)?;
        let may = |most: Rights| match (most & held).contains(rights) {
            true => Ok(()),
            false => Err(Error::NotPermitted),
        };
        let object = match thing {
            Thing::Buffer if orphaned.buffers.contains(&BufferId(number)) => {
                let id = BufferId(number);
                let buffer = sessions.buffers.get_mut(&id).ok_or(Error::NotYours)?;
                if buffer.is_ended {
                    return Err(Error::Revoked);
                }
                may(buffer.rights)?;
                buffer.handles = 1;
                buffer.is_told = true;
                orphaned.buffers.remove(&id);
                Object::Buffer(id)
            }
            Thing::Buffer if orphaned.peer_bars.contains(&PeerBarId(number)) => {
                let id = PeerBarId(number);
                let peer_bar = peer_bars.get_mut(&id).ok_or(Error::NotYours)?;
                may(Rights::INSPECT)?;
                peer_bar.handles = 1;
                orphaned.peer_bars.remove(&id);
                Object::PeerBar(id)
            }
            Thing::Domain if orphaned.domains.contains(&DomainKey(number)) => {
                let key = DomainKey(number);
                let domain = domains.get_mut(&key).ok_or(Error::NotYours)?;
                may(Rights::DOMAIN)?;
                domain.handles = 1;
                orphaned.domains.remove(&key);
                Object::Domain(key)
            }
            _ => return Err(Error::NotYours),
        };
        // Its client has said on the device's handle which protocol it speaks.
        Ok(self.handles.insert_below(Handle::greeted(object, rights), &[by]))
    }
}
