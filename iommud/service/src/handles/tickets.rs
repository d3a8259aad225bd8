//! Tickets: what handles offer, for requests on other handles to name.
//!
//! A ticket is a secret, so there is no way to find one but to be told it: it is looked for in a time that does not
//! depend on how much of a guess is right, and there are too many to try. It ends with the handle that it was made
//! of, with the session that the handle is of, or when it is used.

use alloc::vec::Vec;

use dma_types::Access;
use iommu_engine::domain::DomainKey;
use iommu_engine::platform::Platform;
use libdma::Error;
use libdma::protocol::call::access_from_code;
use libdma::protocol::ticket::{MAX_TICKETS, Offer};
use libdma::protocol::{Rights, Ticket};
use zerocopy::FromBytes;

use crate::calls::{Answered, answer};
use crate::handles::handle::{HandleId, Object};
use crate::memory::peer_bars::Registers;
use crate::service::Service;
use crate::sessions::session::{BufferId, SessionId};

/// What a ticket offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The memory of a buffer.
    Buffer(BufferId),
    /// A part of a device's registers.
    Registers(Registers),
    /// A domain, for devices to enter.
    Domain(DomainKey),
}

/// An offer that nobody has used yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offering {
    /// What is offered.
    pub what: Offered,
    /// The most rights that may be had by it.
    pub rights: Rights,
    /// The most that a device may do by it, if anything.
    pub access: Option<Access>,
    /// The handle that it was made of.
    pub(crate) handle: HandleId,
    /// The session that the handle is of.
    session: SessionId,
}

/// All offers, each with its secret.
#[derive(Debug, Default)]
pub struct Tickets {
    open: Vec<(Ticket, Offering)>,
}

impl Tickets {
    /// What a ticket offers. It stays good until it is [used](Self::used).
    pub fn look(&self, ticket: &[u8; 16]) -> Result<Offering, Error> {
        let mut found = None;
        for (Ticket(secret), offering) in &self.open {
            let differs = secret.iter().zip(ticket).fold(0, |all, (a, b)| all | (a ^ b));
            if differs == 0 {
                found = Some(*offering);
            }
        }
        found.ok_or(Error::BadTicket)
    }

    /// Ends a ticket, for a request has succeeded by it.
    pub fn used(&mut self, ticket: &[u8; 16]) {
        self.open.retain(|(secret, _)| secret.0 != *ticket);
    }

    /// Ends what was made of a handle.
    pub(crate) fn handle_closed(&mut self, handle: HandleId) {
        self.open.retain(|(_, offering)| offering.handle != handle);
    }

    /// Ends what was made of the handles of a session.
    pub(crate) fn session_ended(&mut self, session: SessionId) {
        self.open.retain(|(_, offering)| offering.session != session);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl<P: Platform> Service<P> {
    /// Makes a ticket of a handle.
    pub(crate) fn offer(&mut self, id: HandleId, payload: &mut [u8]) -> Result<Answered, Error> {
        let handle = self.handles.get(id)?;
        let (offer, _) = Offer::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let rights = Rights::from_bits(offer.rights.get()).ok_or(Error::BadValue)?;
        let access = match offer.access.get() {
            0 => None,
            code => Some(access_from_code(code)?),
        };
        if offer.reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        let (what, session) = match handle.object {
            Object::Buffer(buffer) => {
                let needed = Rights::SHARE | rights_for(access);
                handle.require(needed | rights)?;
                if (offer.offset.get(), offer.bytes.get(), offer.bar.get()) != (0, 0, 0) {
                    return Err(Error::BadValue);
                }
                let offered = self.sessions.buffers.get(&buffer).ok_or(Error::BadHandle)?;
                // Of what it was itself made by, it may be less than the handle's rights.
                if !access.is_none_or(|access| offered.allows(access)) {
                    return Err(Error::NotPermitted);
                }
                (Offered::Buffer(buffer), offered.session.ok_or(Error::SessionEnded)?)
            }
            Object::Device(session) => {
                handle.require(Rights::SHARE | rights_for(access) | rights)?;
                handle.require_whole()?;
                access.ok_or(Error::BadValue)?;
                (Offered::Registers(self.registers_of(session, &offer)?), session)
            }
            Object::Domain(key) => {
                handle.require(Rights::SHARE)?;
                let unused = (offer.rights.get(), offer.access.get(), offer.bar.get());
                if unused != (0, 0, 0) || (offer.offset.get(), offer.bytes.get()) != (0, 0) {
                    return Err(Error::BadValue);
                }
                let domain = self.domains.get(&key).ok_or(Error::SessionEnded)?;
                (Offered::Domain(key), domain.session)
            }
            Object::Root
            | Object::Text(_)
            | Object::PeerBar(_)
            | Object::Resume(_)
            | Object::Quarantine(_)
            | Object::Registration(..) => return Err(Error::WrongHandleKind),
        };
        let of_session = self.tickets.open.iter().filter(|(_, it)| it.session == session);
        if of_session.count() >= MAX_TICKETS {
            return Err(Error::QuotaExceeded);
        }
        let ticket = Ticket(self.platform.entropy());
        let answered = answer(payload, &ticket)?;
        let offering = Offering { what, rights, access, handle: id, session };
        self.tickets.open.push((ticket, offering));
        Ok(answered)
    }
}

/// The rights to a buffer that it takes to let a device have it so.
pub(crate) fn rights_for(access: Option<Access>) -> Rights {
    let mut rights = Rights::empty();
    rights.set(Rights::READ, access.is_some_and(Access::may_read));
    rights.set(Rights::WRITE, access.is_some_and(Access::may_write));
    rights
}
