//! Handles that end with everything that was derived from them.
//!
//! Revoking is done at once, whatever hardware says: from then on the handles answer nothing else. It is answered when no
//! device reaches anything by them (rule R2). A revoked handle stays until its holder closes it, and with it the memory of its
//! buffer, which the holder may have mapped:
//!
//! - On Redox the kernel closes a handle when the last of its descriptors and the last mapping that was made of it are gone
//!   (see the runs of the platform). So the memory is free when nobody sees it.
//! - On Linux a client maps a memory object of its own for each buffer. The kernel keeps its pages as long as anybody has
//!   them mapped, whatever becomes of the handle.
//! - In one process libdma closes a handle after it has unmapped.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::Iova;
use iommu_engine::completion::Completion;
use iommu_engine::domain::DomainKey;
use iommu_engine::ledger::Ledger;
use iommu_engine::platform::Platform;
use iommu_engine::policy::Invalidation;
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::handle::{Revoke, Revoked};
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use crate::calls::{Answered, answer};
use crate::handles::handle::{HandleId, Object};
use crate::handles::tree::DoneBy;
use crate::memory::mappings::{Space, mapped_bytes};
use crate::records::BufferRecord;
use crate::service::{ONE_REQUEST, Service};
use crate::sessions::domains::Inside;
use crate::sessions::session::{BufferId, SessionId};

/// Handles that end, and what of those that are gone ends with them.
#[derive(Debug, Default)]
struct Ended {
    handles: BTreeMap<HandleId, Object>,
    /// Who stays, and has what was derived from it and is gone has done.
    heir: Option<(HandleId, Object)>,
}

impl Ended {
    /// Whether something was done by these.
    fn have_done(&self, by: &DoneBy) -> bool {
        let is_heir = self.heir.as_ref().is_some_and(|(heir, _)| *heir == by.handle());
        self.handles.contains_key(&by.handle()) || by.is_left() && is_heir
    }
}

impl<P: Platform> Service<P> {
    /// Ends what was derived from a handle, or what the request names.
    pub(crate) fn revoke(&mut self, id: HandleId, payload: &mut [u8]) -> Result<Answered, Error> {
        let handle = self.handles.get(id)?;
        if let Object::Root | Object::Text(_) = handle.object {
            return Err(Error::WrongHandleKind);
        }
        handle.check_greeted()?;
        let (request, _) = Revoke::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        if request.reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        let tree = self.handles.tree();
        let (chosen, heir) = match request.handle.get() {
            0 => (tree.below(id), Some((id, handle.object.clone()))),
            number => {
                let target = HandleId(number);
                if !self.may_revoke(id, target) {
                    return Err(Error::NotPermitted);
                }
                let mut chosen = tree.below(target);
                chosen.insert(target);
                (chosen, None)
            }
        };
        let (handles, completion) = self.revoke_all(&chosen, heir);
        let revoked = Revoked { handles: U64::new(handles), reserved: U64::ZERO };
        // The request, which it overwrites, was as long.
        Ok(Answered { completion, ..answer(payload, &revoked)? })
    }

    /// Whether a handle may revoke another: what was derived from it, or by the right to administer whatever is of its
    /// session, but not itself nor what it was derived from.
    fn may_revoke(&self, id: HandleId, target: HandleId) -> bool {
        let tree = self.handles.tree();
        let administers = || {
            let administers = self.device_of(id, Rights::ADMINISTER);
            administers.is_ok_and(|session| self.session_of_handle(target) == Some(session))
        };
        tree.is_below(target, id) || (target != id && !tree.is_below(id, target) && administers())
    }

    /// Ends these handles: how many were not ended before, and from when on no device reaches anything by them. Of those that
    /// are closed that is what they have mapped, and where devices are by them; the same goes for what of that the heir has, which
    /// itself stays.
    fn revoke_all(
        &mut self,
        chosen: &BTreeSet<HandleId>,
        heir: Option<(HandleId, Object)>,
    ) -> (u64, Completion) {
        let mut completion = Completion::none();
        let mut ended: BTreeMap<HandleId, Object> = BTreeMap::new();
        let mut by = Ended { handles: BTreeMap::new(), heir };
        for id in chosen {
            let Some(entry) = self.handles.entry(*id) else {
                let known = self.handles.known(*id);
                by.handles.extend(known.map(|entry| (*id, entry.handle.object.clone())));
                continue;
            };
            match &entry.revoked {
                // It may be that hardware has not confirmed that yet.
                Some(before) => completion.join(before),
                None => drop(ended.insert(*id, entry.handle.object.clone())),
            }
        }
        // First of all nothing more comes of them.
        for id in ended.keys() {
            self.handles.revoke(*id, &Completion::none());
            self.tickets.handle_closed(*id);
        }
        let (unanswered, accounts) = self.pending.revoke(|id| ended.contains_key(&id));
        accounts.into_iter().for_each(|account| self.accounts.release(account, &ONE_REQUEST));
        by.handles.extend(ended.iter().map(|(id, object)| (*id, object.clone())));
        completion.join(&self.leave_domains(&by));
        let buffers = self.count_revoked(&ended);
        completion.join(&self.unmap_by(&by, &buffers));
        for object in ended.values() {
            completion.join(&self.close_object(object));
        }
        if !self.is_done(&completion) {
            // Unmaps of before may be gathered still, which this is not to wait for.
            self.engine.hasten(&mut self.platform, &completion);
        }
        ended.keys().for_each(|id| self.handles.revoke(*id, &completion));
        let count = ended.len() as u64;
        unanswered.into_iter().for_each(|id| self.close(id));
        (count, completion)
    }

    /// Moves the devices back that are in a domain by one of these handles.
    fn leave_domains(&mut self, ended: &Ended) -> Completion {
        let mut completion = Completion::none();
        let by_them = self.sessions.sessions.iter().filter(|(_, session)| {
            session.entered.is_some_and(|it| it.by.iter().any(|by| ended.have_done(by)))
        });
        let inside: Vec<SessionId> = by_them.map(|(id, _)| *id).collect();
        for session in inside {
            match self.move_device(session, None) {
                Ok(left) => completion.join(&left),
                Err(_) => completion.join(&self.cut_off(session)),
            }
        }
        completion
    }

    /// Cuts a device off that cannot be moved out of a domain: its unit has failed, say.
    fn cut_off(&mut self, id: SessionId) -> Completion {
        let Some(session) = self.sessions.sessions.get_mut(&id) else { return Completion::none() };
        let device = session.device;
        let Some(Inside { domain: key, .. }) = session.entered.take() else {
            return Completion::none();
        };
        if let Some(domain) = self.domains.get_mut(&key) {
            domain.inside.remove(&id);
        }
        self.engine.cut_off(&mut self.platform, device);
        let left = self.engine.domain(key).map(|domain| domain.detached().clone());
        left.unwrap_or_else(Completion::never)
    }

    /// Counts these handles as revoked with their buffers: which those are.
    fn count_revoked(&mut self, ended: &BTreeMap<HandleId, Object>) -> BTreeSet<BufferId> {
        let mut buffers = BTreeSet::new();
        for object in ended.values() {
            if let Object::Buffer(id) = object
                && let Some(buffer) = self.sessions.buffers.get_mut(id)
            {
                buffer.revoked += 1;
                buffers.insert(*id);
            }
        }
        buffers.iter().for_each(|id| self.end_buffer(*id));
        buffers
    }

    /// Writes down that all handles to a buffer are revoked, if they are: they stay so when iommud is restarted.
    pub(crate) fn end_buffer(&mut self, id: BufferId) {
        let Self { engine, platform, sessions, .. } = self;
        let buffer = sessions.buffers.get_mut(&id).filter(|it| it.is_revoked() && !it.is_ended);
        let Some(buffer) = buffer else { return };
        buffer.is_ended = true;
        if let Some(record) = Ledger::read::<BufferRecord>(platform, buffer.slot) {
            let record = BufferRecord { is_revoked: true, ..record };
            engine.update_record(platform, buffer.slot, &record);
        }
    }

    /// Unmaps what was mapped by these handles, and whatever is left of these buffers if all handles to them are revoked. From
    /// the completion on no device reaches it, nor what was unmapped before by these handles or of these buffers.
    fn unmap_by(&mut self, ended: &Ended, buffers: &BTreeSet<BufferId>) -> Completion {
        let mut completion = Completion::none();
        let mut mapped: BTreeMap<(SessionId, u64), Vec<(Iova, u64)>> = BTreeMap::new();
        let heir = ended.heir.iter().map(|(id, object)| (id, object));
        let mappers = ended.handles.iter().chain(heir);
        let mappers =
            mappers.filter(|(_, object)| matches!(object, Object::Device(_) | Object::Domain(_)));
        let mut domains = BTreeSet::new();
        let mut concerned = buffers.clone();
        for (id, object) in mappers {
            let Some(session) = self.session_of_handle(*id) else { continue };
            let Some(holder) = self.sessions.sessions.get(&session) else { continue };
            domains.insert(match object {
                Object::Domain(key) => *key,
                _ => holder.domain,
            });
            concerned.extend(&holder.buffers);
        }
        for id in concerned {
            let Some(buffer) = self.sessions.buffers.get(&id) else { continue };
            let Some(session) = buffer.session else { continue };
            let all = buffer.is_revoked();
            for (at, by) in buffer.mappings.iter() {
                if all || ended.have_done(by) {
                    let range = (at.1, mapped_bytes(&self.engine, *at));
                    mapped.entry((session, at.0.0)).or_default().push(range);
                }
            }
            if buffers.contains(&id) {
                completion.join(&buffer.unmapped);
                completion.join(&self.runs.gone(buffer.run));
            }
        }
        for ((session, domain), ranges) in mapped {
            let space = Space { session, domain: DomainKey(domain), within: None };
            completion.join(&self.unmap_for_good(space, &ranges));
        }
        for domain in domains {
            completion.join(&self.engine.lasting(domain));
        }
        completion
    }

    /// Unmaps what is left of a buffer all of whose handles are revoked.
    pub(crate) fn unmap_revoked(&mut self, id: BufferId) {
        let _ = self.unmap_by(&Ended::default(), &BTreeSet::from([id]));
    }

    /// Unmaps ranges that are not to be reached any more, whoever would have liked to keep them. Without an IOMMU they are
    /// reached as before: then they stay mapped as far as anybody knows, so that their memory is kept.
    fn unmap_for_good(&mut self, space: Space, ranges: &[(Iova, u64)]) -> Completion {
        if !self.engine.has_iommu() {
            return Completion::none();
        }
        self.pending.forget(space, ranges);
        // What cannot be unmapped may be reached for good.
        let unmapped = self.unmap_ranges(space, ranges, Invalidation::Strict);
        unmapped.unwrap_or_else(|_| Completion::never())
    }
}
