//! Buffers of memory that another handle offers.
//!
//! Such a buffer is its session's as any other, but that its memory is shared: see
//! [`Runs`](crate::memory::runs::Runs).

use dma_types::{Access, Iova};
use iommu_engine::platform::Platform;
use libdma::Error;
use libdma::protocol::{Rights, derive};

use crate::handles::handle::{Handle, HandleId, Object};
use crate::handles::tickets::Offered;
use crate::memory::buffers::BufferSpec;
use crate::pending::Outcome;
use crate::service::{ONE_REQUEST, Service};
use crate::sessions::session::{BufferId, Session, SessionId};

impl<P: Platform> Service<P> {
    /// How many of a session's buffers are of memory that other buffers are of too.
    pub(crate) fn shared_buffers(&self, session: &Session) -> usize {
        let buffers = session.buffers.iter().filter_map(|id| self.sessions.buffers.get(id));
        buffers.filter(|buffer| self.runs.buffers(buffer.run) > 1).count()
    }

    /// Maps what a ticket offers for a session, whose handle has `held` rights.
    pub(crate) fn attach_offered(
        &mut self,
        (session, by): (SessionId, HandleId),
        request: &derive::Attach,
        held: Rights,
    ) -> Result<Outcome<HandleId>, Error> {
        let rights = Rights::from_bits(request.rights.get()).ok_or(Error::BadValue)?;
        if request.reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        let offering = self.tickets.look(&request.ticket)?;
        if !(offering.rights & held).contains(rights) {
            return Err(Error::NotPermitted);
        }
        let parents = [by, offering.handle];
        let handle = match offering.what {
            Offered::Buffer(buffer) => {
                self.attach_buffer((session, parents), request, rights, (buffer, offering.access))
            }
            Offered::Registers(registers) => self.attach_registers(
                (session, parents),
                request,
                rights,
                (registers, offering.access),
            ),
            Offered::Domain(_) => Err(Error::BadTicket),
        }?;
        self.tickets.used(&request.ticket);
        Ok(handle)
    }

    /// Makes a buffer of the memory of one that was offered.
    fn attach_buffer(
        &mut self,
        (session, parents): (SessionId, [HandleId; 2]),
        request: &derive::Attach,
        rights: Rights,
        (buffer, allowed): (BufferId, Option<Access>),
    ) -> Result<Outcome<HandleId>, Error> {
        let offered = self.sessions.buffers.get(&buffer).ok_or(Error::BadTicket)?;
        let [by, _] = parents;
        let spec = wanted(request, offered.bytes, allowed)?.within(&self.bounds_of(by))?;
        let (run, spec) = (offered.run, BufferSpec { cache: offered.cache, rights, ..spec });
        if spec.access.is_some() {
            self.check_only(offered, self.runs.buffers(offered.run) == 1, false)?;
        }
        let [by, _] = parents;
        let account = self.account_by(session, by)?;
        self.claim(account, &spec.usage().and(&ONE_REQUEST))?;
        let (id, completion) =
            self.install((session, by), spec, run).map_err(|refused| refused.error)?;
        let handle = self.handles.insert_below(Handle::new(Object::Buffer(id), rights), &parents);
        Ok(self.answer_handle(handle, completion))
    }
}

/// What is asked for, of what is this long and may be had so by a device.
pub(crate) fn wanted(
    request: &derive::Attach,
    bytes: u64,
    allowed: Option<Access>,
) -> Result<BufferSpec, Error> {
    let derive::Attach { access, align, limit, label, .. } = request;
    let limit = Iova::new(limit.get());
    let spec = BufferSpec::new(bytes, align.get(), access.get(), limit, label)?;
    let spec = BufferSpec { allowed, ..spec };
    if spec.is_allowed() { Ok(spec) } else { Err(Error::NotPermitted) }
}
