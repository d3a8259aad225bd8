//! What is behind a blocked access: which of its session's mappings the address is in, was in, or is just beyond.
//!
//! Only what is the session's own counts (rule R3): its buffers, and the peers' BARs that were attached for
//! it, in its own domain and in those that it has made. What others have mapped in a domain that the device shares
//! with theirs explains nothing here.

use dma_types::{Access, Iova, PAGE_SIZE};
use iommu_engine::domain::DomainKey;
use iommu_engine::fault::{Fault, Tried};
use iommu_engine::platform::{Instant, Platform};
use libdma::protocol::event::Place;

use crate::faults::history::Past;
use crate::memory::peer_bars::PeerBarId;
use crate::service::Service;
use crate::sessions::session::{BufferId, Session, SessionId};

/// What is or was mapped where a device was denied an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// How the address lies to it.
    pub place: Place,
    /// The mapping, with when it was taken away if it was.
    pub mapping: Past,
    /// Which byte of the buffer the address is, or would be.
    pub offset: u64,
}

impl Behind {
    fn new(place: Place, mapping: Past, address: Iova) -> Self {
        let offset = mapping.offset.wrapping_add(address.get().wrapping_sub(mapping.iova.get()));
        Self { place, mapping, offset }
    }
}

impl<P: Platform> Service<P> {
    /// What is behind a fault that a session is told of, whose device is in this domain.
    pub(crate) fn behind(
        &self,
        id: SessionId,
        domain: Option<DomainKey>,
        fault: &Fault,
        now: Instant,
    ) -> Option<Behind> {
        if matches!(fault.tried, Tried::Interrupt | Tried::Internal) {
            return None;
        }
        let session = self.sessions.sessions.get(&id)?;
        let own = session.domains.iter().copied().chain([session.domain]);
        let here = domain.filter(|domain| own.clone().any(|own| own == *domain));
        let address = fault.address;
        here.and_then(|here| self.behind_in(id, session, here, fault, now))
            .or_else(|| {
                let mut others = own.filter(|other| Some(*other) != domain);
                let mapping = others.find_map(|it| self.own_mapping(id, it, address, now))?;
                Some(Behind::new(Place::Mapped, mapping, address))
            })
            .or_else(|| was_behind(session, None, address))
    }

    /// The same in the domain in which the device is: what does not allow the access, or else what was there last, or
    /// ends just before; or at last what is there and allows it, for then it came to be there since.
    fn behind_in(
        &self,
        id: SessionId,
        session: &Session,
        domain: DomainKey,
        fault: &Fault,
        now: Instant,
    ) -> Option<Behind> {
        let address = fault.address;
        let mapped = self.own_mapping(id, domain, address, now);
        let mapped = mapped.map(|mapping| Behind::new(Place::Mapped, mapping, address));
        mapped
            .filter(|behind| is_denied(behind.mapping.access, fault.tried))
            .or_else(|| was_behind(session, Some(domain), address))
            .or_else(|| {
                let before = Iova::new(address.page().get().checked_sub(PAGE_SIZE)?);
                let mapping = self.own_mapping(id, domain, before, now)?;
                let ends = mapping.iova.get().wrapping_add(mapping.bytes);
                let is_beyond = mapped.is_none() && ends == address.page().get();
                is_beyond.then(|| Behind::new(Place::Beyond, mapping, address))
            })
            .or(mapped)
    }

    /// The session's mapping in which an address of a domain lies.
    fn own_mapping(
        &self,
        id: SessionId,
        domain: DomainKey,
        address: Iova,
        at: Instant,
    ) -> Option<Past> {
        let (iova, mapping) = self.engine.domain(domain)?.lookup(address)?;
        let number = mapping.owner.buffer()?;
        let buffer = self.sessions.buffers.get(&BufferId(number));
        let label = match buffer.filter(|buffer| buffer.session == Some(id)) {
            Some(buffer) => buffer.label,
            None => self.peer_bars.get(&PeerBarId(number)).filter(|it| it.session == id)?.label,
        };
        Some(Past::new((domain, iova), &mapping, (number, label), at))
    }
}

/// What a session had at an address last, of a domain or of any.
fn was_behind(session: &Session, domain: Option<DomainKey>, address: Iova) -> Option<Behind> {
    let was_there = |past: &&Past| {
        let offset = address.get().checked_sub(past.iova.get());
        domain.is_none_or(|domain| domain == past.domain)
            && offset.is_some_and(|offset| offset < past.bytes)
    };
    let past = session.history.latest().find(was_there)?;
    Some(Behind::new(Place::Unmapped, *past, address))
}

/// Whether memory that is mapped so is not there for what was tried.
fn is_denied(access: Access, tried: Tried) -> bool {
    match tried {
        Tried::Read => !access.may_read(),
        Tried::Write => !access.may_write(),
        // Of a read or a write, or both; whoever may do both is denied none.
        _ => access != Access::ReadWrite,
    }
}
