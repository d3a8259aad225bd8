//! New handles from old ones: see [`derive`](mod@derive).

use iommu_engine::platform::Platform;
use iommu_engine::policy::Quotas;
use libdma::Error;
use libdma::protocol::domain::Create;
use libdma::protocol::limit::Resource;
use libdma::protocol::resume::Reclaim;
use libdma::protocol::{Rights, derive};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::handles::bounds::Bounds;
use crate::handles::handle::{Handle, HandleId, MOST_DERIVED, Object, Watch};
use crate::memory::label::Label;
use crate::pending::Outcome;
use crate::service::Service;
use crate::sessions::session::SessionId;

impl<P: Platform> Service<P> {
    /// Makes a new handle from one; see [`derive`](mod@derive).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownCall`] for bytes that are no request, [`Error::ShortPayload`], [`Error::QuotaExceeded`] for more than
    /// [`MOST_DERIVED`], and what the request itself can fail with.
    pub fn derive(&mut self, from: HandleId, request: &[u8]) -> Result<Outcome<HandleId>, Error> {
        let parent = self.handles.get(from)?;
        let kind: U32 = parse(request)?;
        let kind = derive::Kind::try_from(kind.get())?;
        let most = self.account_of(from)?.map_or(0, |account| self.accounts.buffers_of(account));
        if self.handles.derived_beside(from) >= most.saturating_add(MOST_DERIVED) {
            return Err(Error::QuotaExceeded);
        }
        match kind {
            derive::Kind::Copy => {
                let request: derive::Copy = parse(request)?;
                let rights = Rights::from_bits(request.rights.get()).ok_or(Error::BadValue)?;
                parent.require(rights)?;
                // Its memory comes to that one handle.
                if let Object::Registration(..) | Object::Resume(_) = parent.object {
                    return Err(Error::WrongHandleKind);
                }
                let copy = Handle { rights, watch: Watch::Off, ..parent.clone() };
                self.count_handle(&copy.object);
                Ok(Outcome::Done(self.handles.insert_below(copy, &[from])))
            }
            kind @ (derive::Kind::Allocate | derive::Kind::AllocateContiguous) => {
                let request: derive::Allocate = parse(request)?;
                let session = session_of(parent, Rights::ALLOCATE)?;
                let rights = parent.rights & Rights::BUFFER;
                let contiguous = kind == derive::Kind::AllocateContiguous;
                self.allocate((session, from), &request, contiguous, rights)
            }
            derive::Kind::Register => {
                let request: derive::Register = parse(request)?;
                let session = session_of(parent, Rights::ALLOCATE)?;
                let rights = parent.rights & Rights::BUFFER;
                self.register((session, from), &request, rights).map(Outcome::Done)
            }
            derive::Kind::Attach => {
                let request: derive::Attach = parse(request)?;
                let session = session_of(parent, Rights::ALLOCATE)?;
                self.attach_offered((session, from), &request, parent.rights)
            }
            derive::Kind::Domain => {
                let request: Create = parse(request)?;
                let session = session_of(parent, Rights::ATTACH)?;
                let rights = parent.rights & Rights::DOMAIN;
                self.create_domain((session, from), &request, rights).map(Outcome::Done)
            }
            derive::Kind::Restrict => {
                let request: derive::Restrict = parse(request)?;
                self.restrict(from, &request).map(Outcome::Done)
            }
            derive::Kind::Reclaim => {
                let request: Reclaim = parse(request)?;
                // What there is to be had again is all of the session's.
                let session = session_of(parent, Rights::DEVICE)?;
                if parent.bounds != Bounds::NONE {
                    return Err(Error::NotPermitted);
                }
                self.reclaim((session, from), &request, parent.rights).map(Outcome::Done)
            }
        }
    }

    /// Makes a handle to the same device or domain, within bounds.
    fn restrict(&mut self, from: HandleId, request: &derive::Restrict) -> Result<HandleId, Error> {
        let parent = self.handles.get(from)?;
        let rights = Rights::from_bits(request.rights.get()).ok_or(Error::BadValue)?;
        let (Object::Device(_) | Object::Domain(_)) = parent.object else {
            return Err(Error::WrongHandleKind);
        };
        parent.require(rights)?;
        if request.reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        let label = Label::try_from(&request.label)?.as_str().into();
        let bounds = parent.bounds.within(request)?;
        let handle = Handle { rights, label, watch: Watch::Off, ..parent.clone() };
        let limits = request.limits;
        let bytes = |of: Resource| limits[of as usize - 1].get();
        // More than can be counted is no limit.
        let count = |of: Resource| u32::try_from(bytes(of)).unwrap_or(u32::MAX);
        let quotas = Quotas {
            buffers: count(Resource::Buffers),
            buffer_bytes: bytes(Resource::BufferBytes),
            mapped_bytes: bytes(Resource::MappedBytes),
            iova_bytes: bytes(Resource::IovaBytes),
            mappings: count(Resource::Mappings),
            page_table_bytes: bytes(Resource::PageTableBytes),
            requests: count(Resource::Requests),
            operations: count(Resource::Operations),
        };
        let above = self.account_of(from)?.ok_or(Error::SessionEnded)?;
        let account = self.accounts.restrict(above, quotas)?;
        self.count_handle(&handle.object);
        let id = self.handles.insert_below(handle, &[from]);
        self.handles.get_mut(id)?.bounds = Bounds { account: Some(account), ..bounds };
        Ok(id)
    }

    /// Counts another handle to an object.
    fn count_handle(&mut self, object: &Object) {
        match object {
            Object::Device(id) => {
                if let Some(session) = self.sessions.sessions.get_mut(id) {
                    session.handles += 1;
                }
            }
            Object::Domain(key) => {
                if let Some(domain) = self.domains.get_mut(key) {
                    domain.handles += 1;
                }
            }
            Object::Buffer(id) => {
                if let Some(buffer) = self.sessions.buffers.get_mut(id) {
                    buffer.handles += 1;
                }
            }
            Object::PeerBar(id) => {
                if let Some(peer_bar) = self.peer_bars.get_mut(id) {
                    peer_bar.handles += 1;
                }
            }
            Object::Root
            | Object::Text(_)
            | Object::Resume(_)
            | Object::Quarantine(_)
            | Object::Registration(..) => {}
        }
    }
}

/// The request that the bytes begin with.
fn parse<T: FromBytes>(request: &[u8]) -> Result<T, Error> {
    T::read_from_prefix(request).map(|(request, _)| request).map_err(|_| Error::ShortPayload)
}

/// The session of a device's handle that has these rights.
fn session_of(handle: &Handle, rights: Rights) -> Result<SessionId, Error> {
    handle.require(rights)?;
    match handle.object {
        Object::Device(session) => Ok(session),
        _ => Err(Error::WrongHandleKind),
    }
}
