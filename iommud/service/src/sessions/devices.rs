//! Devices: opened, which begins a session, and closed, which ends it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::PciAddress;
use iommu_engine::completion::Completion;
use iommu_engine::domain::DomainKey;
use iommu_engine::platform::Platform;
use libdma::Error;
use libdma::protocol::{Rights, Secret};

use crate::error::to_client;
use crate::handles::handle::{Handle, HandleId, Object};
use crate::memory::buffers::{quotas_of, unmap_everywhere};
use crate::pending::Outcome;
use crate::records::SessionRecord;
use crate::service::{Caller, ONE_REQUEST, Service};
use crate::sessions::session::{Session, SessionId};

impl<P: Platform> Service<P> {
    /// Begins a session: a domain for the device's group, and the device in it. When another member of the group
    /// is held, the two share its domain: no unit could keep them apart.
    pub(crate) fn open_device(
        &mut self,
        address: PciAddress,
        caller: Caller,
    ) -> Result<Outcome<HandleId>, Error> {
        if self.sessions.of_device(address).is_some() {
            return Err(Error::DeviceBusy);
        }
        // What was blocked before is not this session's.
        self.log_faults();
        self.set_numbers_aside()?;
        let Self { engine, platform, .. } = self;
        if !engine.is_known(platform, address) {
            // It may have been plugged in since.
            engine.rescan(platform);
        }
        if engine.is_blocked(address) {
            return Err(Error::Quarantined);
        }
        let shared = engine.group(address).filter(|group| group.is_held());
        let shared = shared.and_then(|group| group.attached);
        if shared.is_some_and(|domain| self.domains.contains_key(&domain)) {
            // What is mapped where its group is now is no business of this session's.
            return Err(Error::DeviceBusy);
        }
        let session = self.sessions.next_session();
        let of_device = quotas_of(engine, address);
        let of_user = engine.policy().for_client(caller.uid);
        let account =
            self.accounts.open_session(session, (address, of_device), (caller.uid, of_user));
        if let Err(refused) = self.claim(account, &ONE_REQUEST) {
            self.close_account(account);
            return Err(refused);
        }
        let domain = shared.map_or_else(
            || {
                self.on_account(account, |engine, platform| {
                    Ok(engine.create_domain(platform, &[address])?)
                })
            },
            Ok,
        );
        let domain = domain.map_err(|refused| {
            self.close_account(account);
            to_client(refused.error)
        })?;
        let Self { engine, platform, sessions, .. } = self;
        let generation = sessions.next_generation(address);
        let (uid, secret) = (caller.uid, Secret(platform.entropy()));
        let record =
            SessionRecord { session, device: address, domain: domain.0, generation, uid, secret };
        let opened = engine.write_record(platform, &record).and_then(|slot| {
            let completion = engine.attach(platform, address, domain);
            let completion = completion.inspect_err(|_| engine.strike_record(platform, slot))?;
            Ok((slot, completion))
        });
        let (slot, completion) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                // If it was just made, nothing is attached to it; a shared one is in use, and stays.
                let _ = engine.destroy_domain(platform, domain);
                self.close_account(account);
                return Err(to_client(error));
            }
        };
        let state = Session { handles: 1, ..Session::of(&record, slot, account) };
        self.sessions.sessions.insert(session, state);
        self.tell_anew(address);
        let handle = Handle::new(Object::Device(session), Rights::DEVICE).of(uid);
        let handle = self.handles.insert(handle);
        let mut completion = completion;
        completion.join(&self.still_reached(address));
        Ok(self.answer_handle(handle, completion))
    }

    /// One handle less; with the last the session ends (rule R4).
    pub(crate) fn close_device(&mut self, id: SessionId) {
        let Some(session) = self.sessions.sessions.get_mut(&id) else { return };
        session.handles -= 1;
        if session.handles > 0 {
            return;
        }
        // What was blocked until now is not for others of its group.
        self.log_faults();
        self.tickets.session_ended(id);
        self.end_peer_bars_of(id);
        let Some(session) = self.sessions.sessions.remove(&id) else { return };
        self.engine.strike_record(&self.platform, session.slot);
        // The device is cut off first; only then is anything of it on its way to being free.
        let unmapped = match self.engine.detach(&mut self.platform, session.device) {
            Ok(completion) => completion,
            // It was attached when the session began, and only its end detaches it. Were it not so, nobody
            // could say what the device still reaches.
            Err(_) => Completion::never(),
        };
        self.tell_anew(session.device);
        self.given_up_in_quarantine(session.device);
        if let Some(domain) = session.entered.and_then(|it| self.domains.get_mut(&it.domain)) {
            domain.inside.remove(&id);
        }
        for buffer in session.buffers.iter().filter_map(|id| self.sessions.buffers.get(id)) {
            self.accounts.unmapping(&self.engine, &buffer.mappings, None);
        }
        // Other sessions' devices leave those that it has made.
        let mut gone: BTreeMap<DomainKey, Completion> = BTreeMap::new();
        for key in &session.domains {
            gone.insert(*key, self.end_domain(*key));
        }
        let Self { engine, platform, sessions, .. } = self;
        // In use it still is where another member of the device's group is held.
        if engine.destroy_domain(platform, session.domain).is_ok() {
            gone.insert(session.domain, Completion::none());
        }
        let mut closed = Vec::new();
        for id in session.buffers {
            let Some(buffer) = sessions.buffers.get_mut(&id) else { continue };
            buffer.session = None;
            // The address may be another's next.
            buffer.first = None;
            buffer.unmapped.join(&unmapped);
            let mut mappings = core::mem::take(&mut buffer.mappings);
            let of_gone = mappings.keys().filter_map(|(key, _)| gone.get(key));
            of_gone.for_each(|gone| buffer.unmapped.join(gone));
            mappings.retain(|(key, _)| !gone.contains_key(key));
            buffer.unmapped.join(&unmap_everywhere(engine, platform, &mappings));
            if buffer.handles == 0 {
                // It was closed before, and has waited for this.
                closed.extend(sessions.buffers.remove(&id));
            }
        }
        closed.into_iter().for_each(|buffer| self.retire_buffer(buffer));
        // What outlives it is on its account still.
        self.close_account(session.account);
    }
}
