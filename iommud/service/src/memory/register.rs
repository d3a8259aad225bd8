//! Buffers of memory that clients supply.
//!
//! The handle comes first and the memory is sent to it, so that there is no moment at which it would be nobody's
//! (rule R4). The transport has the platform take the memory over; from there on it is a run like any other,
//! freed only when no device can reach it (rule R2). It holds what its client had in it: rule R8 is about memory
//! of iommud's.

use alloc::boxed::Box;
use alloc::vec::Vec;

use dma_types::{Iova, PAGE_SIZE};
use iommu_engine::platform::{Platform, RunId};
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::derive::{self, MAX_REGISTER_BYTES};

use crate::handles::handle::{Handle, HandleId, Object};
use crate::memory::buffers::{BufferSpec, Refused};
use crate::pending::{Answer, Outcome};
use crate::service::{ONE_REQUEST, Service};
use crate::sessions::session::SessionId;

/// Which memory a handle waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// At which address the object has it.
    pub address: u64,
    /// How much.
    pub bytes: u64,
}

impl<P: Platform> Service<P> {
    /// Makes a handle that waits for memory.
    pub(crate) fn register(
        &mut self,
        (session, by): (SessionId, HandleId),
        request: &derive::Register,
        rights: Rights,
    ) -> Result<HandleId, Error> {
        let derive::Register { bytes, align, access, limit, address, .. } = request;
        let limit = Iova::new(limit.get());
        let spec = BufferSpec::new(bytes.get(), align.get(), access.get(), limit, &request.label)?;
        if spec.bytes > MAX_REGISTER_BYTES {
            return Err(Error::TooLarge);
        }
        let address = address.get();
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Error::BadAlignment);
        }
        address.checked_add(spec.bytes).ok_or(Error::Overflow)?;
        let spec = spec.within(&self.bounds_of(by))?;
        let account = self.account_by(session, by)?;
        self.claim(account, &spec.usage())?;
        let spec = Box::new(BufferSpec { address, rights, ..spec });
        let handle = Handle::new(Object::Registration(session, spec), rights);
        Ok(self.handles.insert_below(handle, &[by]))
    }

    /// Which memory a handle waits for, if its session may have it now.
    ///
    /// # Errors
    ///
    /// [`Error::WrongHandleKind`] if it waits for none, or no more; [`Error::NoHandshake`],
    /// [`Error::SessionEnded`], [`Error::QuotaExceeded`].
    pub fn awaited(&mut self, id: HandleId) -> Result<Awaited, Error> {
        let handle = self.handles.get(id)?;
        let Object::Registration(session, spec) = &handle.object else {
            return Err(Error::WrongHandleKind);
        };
        handle.require(Rights::empty())?;
        let awaited = Awaited { address: spec.address, bytes: spec.bytes };
        let (account, usage) = (self.account_by(*session, id)?, spec.usage());
        self.claim(account, &usage.and(&ONE_REQUEST))?;
        Ok(awaited)
    }

    /// Gives a handle that waits for it its memory: a run of the length that [`awaited`](Self::awaited) told. It is a
    /// buffer's handle from then on. Done means that the device can reach it, if it was to be mapped.
    ///
    /// # Errors
    ///
    /// As [`awaited`](Self::awaited), and as for any buffer. The run is the caller's again then, except if a device
    /// may reach it still: that is told by `false`.
    pub fn supply(&mut self, id: HandleId, run: RunId) -> Result<Outcome<()>, (Error, bool)> {
        let unreached = |error| (error, true);
        self.awaited(id).map_err(unreached)?;
        let handle = self.handles.get(id).map_err(unreached)?;
        let Object::Registration(session, spec) = handle.object.clone() else {
            return Err(unreached(Error::WrongHandleKind));
        };
        // What it was derived from is there still, if only to be revoked.
        let by = self.handles.tree().parents(id).first().copied().unwrap_or(id);
        let (buffer, completion) = self
            .install((session, by), *spec, run)
            .map_err(|Refused { error, is_out_of_reach }| (error, is_out_of_reach))?;
        if let Ok(handle) = self.handles.get_mut(id) {
            handle.object = Object::Buffer(buffer);
        }
        if self.is_done(&completion) {
            return Ok(Outcome::Done(()));
        }
        // Were the unit to fail, the memory stays where it is, as that of all its buffers.
        let answer = Answer::Payload(Vec::new());
        Ok(Outcome::Pending(self.wait(id, completion, answer, Vec::new())))
    }
}
