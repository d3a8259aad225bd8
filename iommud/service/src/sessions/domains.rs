//! Explicit domains: I/O address spaces that clients make, and the devices in them.

use alloc::collections::BTreeSet;
use alloc::string::String;

use dma_types::Iova;
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::domain::DomainKey;
use iommu_engine::iova::IovaRange;
use iommu_engine::ledger::Slot;
use iommu_engine::platform::Platform;
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::DEVICE_FLAG_WRITE_IMPLIES_READ;
use libdma::protocol::domain::{Create, DomainInfo, Enter, Entered, Leave};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use crate::account::{AccountId, Usage};
use crate::calls::{Answered, answer};
use crate::error::to_client;
use crate::handles::handle::{Handle, HandleId, Object};
use crate::handles::tickets::Offered;
use crate::handles::tree::DoneBy;
use crate::memory::label::Label;
use crate::records::ExplicitRecord;
use crate::service::Service;
use crate::sessions::session::SessionId;

/// A domain that a client has made: until its last handle is gone, or its session.
#[derive(Debug)]
pub struct ExplicitDomain {
    /// The session that it belongs to, whose buffers are mapped in it.
    pub session: SessionId,
    /// On which account it is.
    pub account: AccountId,
    /// What reports call it.
    pub label: String,
    /// How many handles there are to it.
    pub handles: u32,
    /// The sessions whose devices are in it.
    pub inside: BTreeSet<SessionId>,
    /// Its record in the ledger.
    pub slot: Slot,
}

/// Where a device is that has entered a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The domain.
    pub domain: DomainKey,
    /// The handles by which it has entered: its own, and that of the domain which offered it.
    pub by: [DoneBy; 2],
}

/// What a domain holds, but for tables: it counts as a buffer without memory.
pub(crate) const ONE_DOMAIN: Usage = Usage::buffer(0);

impl<P: Platform> Service<P> {
    /// Makes a domain for a session, whose device's unit can walk it.
    pub(crate) fn create_domain(
        &mut self,
        (session, by): (SessionId, HandleId),
        request: &Create,
        rights: Rights,
    ) -> Result<HandleId, Error> {
        let Create { base, bytes, .. } = request;
        let label = Label::try_from(&request.label)?.as_str().into();
        if request.reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        let aperture = IovaRange::new(Iova::new(base.get()), bytes.get());
        let aperture = (aperture != IovaRange::new(Iova::new(0), 0)).then_some(aperture);
        let holder = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        let device = holder.device;
        let account = self.account_by(session, by)?;
        self.claim(account, &ONE_DOMAIN)?;
        let key = self.on_account(account, |engine, platform| {
            Ok(engine.create_explicit_domain(platform, &[device], aperture)?)
        });
        let key = key.map_err(|refused| to_client(refused.error))?;
        let Self { engine, platform, sessions, domains, accounts, .. } = self;
        let aperture =
            engine.domain(key).map_or(IovaRange::new(Iova::new(0), 0), |it| it.aperture());
        let record = ExplicitRecord { domain: key.0, session, aperture, label: request.label };
        let slot = engine.write_record(platform, &record).map_err(|error| {
            // It was just made, and nothing is in it.
            let _ = engine.destroy_domain(platform, key);
            to_client(error)
        })?;
        accounts.add(account, &ONE_DOMAIN);
        let inside = BTreeSet::new();
        let domain = ExplicitDomain { session, account, label, handles: 1, inside, slot };
        domains.insert(key, domain);
        if let Some(session) = sessions.sessions.get_mut(&session) {
            session.domains.insert(key);
        }
        let handle = Handle::new(Object::Domain(key), rights);
        Ok(self.handles.insert_below(handle, &[by]))
    }

    pub(crate) fn domain_info(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        let handle = self.handles.get(handle)?;
        let Object::Domain(key) = handle.object else { return Err(Error::WrongHandleKind) };
        handle.require(Rights::INSPECT)?;
        let known = self.domains.get(&key).and_then(|_| self.engine.domain(key));
        let domain = known.ok_or(Error::SessionEnded)?;
        let (abilities, aperture) = (domain.abilities(), domain.aperture());
        let flags = if abilities.write_needs_read { DEVICE_FLAG_WRITE_IMPLIES_READ } else { 0 };
        let info = DomainInfo {
            domain: U64::new(key.0),
            base: U64::new(aperture.start.get()),
            bytes: U64::new(aperture.bytes),
            address_bits: U32::new(abilities.address_bits.into()),
            flags: U32::new(flags),
        };
        answer(payload, &info)
    }

    /// Moves a device into the domain of a ticket: Linux's `iommu_attach_device`.
    pub(crate) fn enter(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        let session = self.device_of(handle, Rights::ATTACH)?;
        let (request, _) = Enter::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let offering = self.tickets.look(&request.ticket)?;
        let Offered::Domain(key) = offering.what else { return Err(Error::BadTicket) };
        let holder = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        if holder.entered.is_some_and(|it| it.domain == key) {
            return Err(Error::AlreadyEntered);
        }
        if self.engine.progress(&holder.moved) == Progress::Pending {
            // One move at a time, and the way back: units are asked by each, and others' requests stand behind those.
            return Err(Error::TooManyRequests);
        }
        let by = [handle, offering.handle].map(DoneBy::itself);
        let completion = self.move_device(session, Some(Inside { domain: key, by }))?;
        self.tickets.used(&request.ticket);
        let entered = Entered { domain: U64::new(key.0), reserved: U64::ZERO };
        // The request, which it overwrites, was as long.
        Ok(Answered { completion, ..answer(payload, &entered)? })
    }

    /// Moves a device back into its own domain: Linux's `iommu_detach_device`.
    pub(crate) fn leave(&mut self, handle: HandleId, payload: &[u8]) -> Result<Answered, Error> {
        let session = self.device_of(handle, Rights::ATTACH)?;
        let (request, _) = Leave::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let holder = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        let domain = DomainKey(request.domain.get());
        if holder.entered.is_none_or(|it| it.domain != domain) {
            return Err(Error::NotEntered);
        }
        Ok(Answered::after(0, self.move_device(session, None)?))
    }

    /// Moves the device of a session into an explicit domain or its own.
    pub(crate) fn move_device(
        &mut self,
        session: SessionId,
        to: Option<Inside>,
    ) -> Result<Completion, Error> {
        // What was blocked before was where it is still.
        self.log_faults();
        let Self { engine, platform, sessions, domains, .. } = self;
        let holder = sessions.sessions.get_mut(&session).ok_or(Error::SessionEnded)?;
        let key = to.map_or(holder.domain, |it| it.domain);
        // In quarantine it is in none, and comes back from there to its own.
        let completion = match to {
            None if engine.is_blocked(holder.device) => Completion::none(),
            _ => engine.transfer(platform, holder.device, key).map_err(to_client)?,
        };
        holder.moved.join(&completion);
        let device = holder.device;
        let before = core::mem::replace(&mut holder.entered, to);
        if let Some(before) = before.and_then(|it| domains.get_mut(&it.domain)) {
            before.inside.remove(&session);
        }
        if let Some(domain) = to.and_then(|it| domains.get_mut(&it.domain)) {
            domain.inside.insert(session);
        }
        self.moved(device);
        Ok(completion)
    }

    /// Counts a domain's handle no more, and ends the domain with its last.
    pub(crate) fn close_domain(&mut self, key: DomainKey) -> Completion {
        let Some(domain) = self.domains.get_mut(&key) else { return Completion::none() };
        domain.handles -= 1;
        if domain.handles > 0 {
            return Completion::none();
        }
        let owner = domain.session;
        let Self { engine, platform, sessions, accounts, .. } = self;
        if let Some(session) = sessions.sessions.get_mut(&owner) {
            let now = platform.now();
            for id in &session.buffers {
                let Some(buffer) = sessions.buffers.get(id) else { continue };
                let named = (id.0, buffer.label);
                session.history.add_all(engine, now, named, &buffer.mappings, Some(key));
                accounts.unmapping(engine, &buffer.mappings, Some(key));
            }
        }
        let gone = self.end_domain(key);
        let Self { engine, sessions, .. } = self;
        let Some(session) = sessions.sessions.get_mut(&owner) else { return gone };
        session.domains.remove(&key);
        for id in &session.buffers {
            let Some(buffer) = sessions.buffers.get_mut(id) else { continue };
            if buffer.mappings.keys().any(|(domain, _)| *domain == key) {
                buffer.mappings.retain(|(domain, _)| *domain != key);
                engine.forget_confirmed(&mut buffer.unmapped);
                buffer.unmapped.join(&gone);
            }
        }
        gone
    }

    /// Ends a domain (rule R4): the devices in it go back into their own. After the completion no unit holds
    /// anything of what was mapped in it.
    pub(crate) fn end_domain(&mut self, key: DomainKey) -> Completion {
        self.log_faults();
        let Some(domain) = self.domains.remove(&key) else { return Completion::none() };
        let Self { engine, platform, sessions, accounts, .. } = self;
        accounts.release(domain.account, &ONE_DOMAIN);
        engine.strike_record(platform, domain.slot);
        for session in domain.inside {
            let Some(holder) = sessions.sessions.get_mut(&session) else { continue };
            holder.entered = None;
            if engine.transfer(platform, holder.device, holder.domain).is_err() {
                // Its unit has failed, say. There it must not stay.
                engine.cut_off(platform, holder.device);
            }
        }
        let gone = engine.domain(key).map(|domain| domain.detached().clone());
        match engine.destroy_domain(platform, key) {
            Ok(()) => gone.unwrap_or_default(),
            // Somebody is in it still: what was mapped may be reached for good, and its memory is never used again.
            Err(_) => Completion::never(),
        }
    }
}
