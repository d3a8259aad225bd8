//! Buffers of memory that another handle offers.
//!
//! Such a buffer is its session's as any other, but that its memory is shared: see
//! [`Runs`](crate::runs::Runs).

use dma_types::Iova;
use iommu_engine::platform::Platform;
use libdma::Error;
use libdma::protocol::{Rights, derive};

use crate::buffers::BufferSpec;
use crate::handle::{Handle, HandleId, Object};
use crate::pending::Outcome;
use crate::service::Service;
use crate::session::{Session, SessionId};
use crate::tickets::Offered;

impl<P: Platform> Service<P> {
    /// How many of a session's buffers are of memory that other buffers are of too.
    pub(crate) fn shared_buffers(&self, session: &Session) -> usize {
        let buffers = session.buffers.iter().filter_map(|id| self.sessions.buffers.get(id));
        buffers.filter(|buffer| self.runs.buffers(buffer.run) > 1).count()
    }

    /// Makes a buffer of what a ticket offers, for a session whose handle has `held` rights.
    pub(crate) fn attach_offered(
        &mut self,
        session: SessionId,
        request: &derive::Attach,
        held: Rights,
    ) -> Result<Outcome<HandleId>, Error> {
        let derive::Attach { access, align, limit, ticket, label, .. } = request;
        let rights = Rights::from_bits(request.rights.get()).ok_or(Error::BadValue)?;
        if request.reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        let offering = self.tickets.look(ticket)?;
        let Offered::Buffer(buffer) = offering.what;
        let offered = self.sessions.buffers.get(&buffer).ok_or(Error::BadTicket)?;
        let (run, limit) = (offered.run, Iova::new(limit.get()));
        let spec = BufferSpec::new(offered.bytes, align.get(), access.get(), limit, label)?;
        let spec = BufferSpec { allowed: offering.access, cache: offered.cache, ..spec };
        if !(offering.rights & held).contains(rights) || !spec.is_allowed() {
            return Err(Error::NotPermitted);
        }
        self.check_quota(session, &spec)?;
        let (id, completion) = self.install(session, spec, run).map_err(|refused| refused.error)?;
        self.tickets.used(ticket);
        let handle = self.handles.insert(Handle::new(Object::Buffer(id), rights));
        Ok(self.answer_handle(handle, completion))
    }
}
