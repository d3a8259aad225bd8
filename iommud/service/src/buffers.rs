//! Buffers: allocated, granted to clients' eyes, and given back.

use alloc::string::{String, ToString};

use dma_types::{Iova, PAGE_SIZE, PciAddress};
use iommu_engine::completion::Completion;
use iommu_engine::engine::{Engine, MapSpec};
use iommu_engine::platform::{ContiguityError, Platform, RunId};
use iommu_engine::policy::Quotas;
use libdma::Error;
use libdma::protocol::call::access_from_code;
use libdma::protocol::{Rights, derive};

use crate::error::to_client;
use crate::handle::{Handle, HandleId, Object};
use crate::pending::Outcome;
use crate::records::BufferRecord;
use crate::service::Service;
use crate::session::{Buffer, BufferId, SessionId};

/// The longest buffer that one request may ask for: 1 GiB, more than any device's rings and pools, and
/// little enough that a mistaken size is an answer and not the end of the machine's memory.
pub const MAX_BUFFER_BYTES: u64 = 1 << 30;

/// The right to map a part of a buffer, for the transport to turn into memory of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The memory. The part that is granted starts at its beginning.
    pub run: RunId,
    /// How much of it.
    pub bytes: u64,
    /// Whether it may be written.
    pub writable: bool,
}

impl<P: Platform> Service<P> {
    /// Makes a buffer for a session: memory, in one physical piece if it must be, a mapping if one is wanted, and a
    /// record of both.
    pub(crate) fn allocate(
        &mut self,
        session: SessionId,
        request: &derive::Allocate,
        contiguous: bool,
        rights: Rights,
    ) -> Result<Outcome<HandleId>, Error> {
        let bytes = request.bytes.get();
        check_size(bytes)?;
        let align = request.align.get();
        if !align.is_power_of_two() || align < PAGE_SIZE {
            return Err(Error::BadAlignment);
        }
        let access = match request.access.get() {
            0 => None,
            code => Some(access_from_code(code)?),
        };
        let label = label(&request.label)?;
        let Self { engine, platform, sessions, .. } = self;
        let holder = sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        let to_map = if access.is_some() { bytes } else { 0 };
        if !holder.may_hold(bytes, sessions.left(holder.device)) || !holder.may_map(to_map) {
            return Err(Error::QuotaExceeded);
        }
        let (device, domain) = (holder.device, holder.domain);
        // Without an IOMMU, what is mapped must be one piece. What is not mapped yet may be mapped piece by piece.
        let one_piece = contiguous || !engine.has_iommu();
        let run = match one_piece.then(|| platform.alloc_contiguous_run(bytes)) {
            Some(Ok(run)) => run,
            Some(Err(ContiguityError::TooLong)) if !contiguous && access.is_none() => {
                platform.alloc_run(bytes).ok_or(Error::OutOfMemory)?
            }
            Some(Err(error)) => return Err(refusal(error)),
            None => platform.alloc_run(bytes).ok_or(Error::OutOfMemory)?,
        };
        // Before a client has it, what is not confined must not reach it.
        let kept = engine.follow_arenas(platform);
        let id = sessions.next_buffer();
        let limit = Iova::new(request.limit.get());
        let mapped = access.map(|access| {
            let spec = MapSpec { run, offset: 0, bytes, access, align, limit, owner: id.0 };
            let (iova, completion) = engine.map(platform, domain, &spec)?;
            Ok(((iova, access), completion))
        });
        let (first, completion) = match mapped.transpose() {
            Ok(None) => (None, kept),
            Ok(Some((first, mut completion))) => {
                completion.join(&kept);
                (Some(first), completion)
            }
            Err(error) => {
                platform.free_run(run);
                return Err(to_client(error));
            }
        };
        let record = BufferRecord { buffer: id, session, run, bytes, first, label: request.label };
        let slot = match engine.write_record(platform, &record) {
            Ok(slot) => slot,
            Err(error) => {
                let unmapped = match first {
                    Some((iova, _)) => engine.unmap(platform, domain, iova, bytes),
                    None => Ok(Completion::none()),
                };
                // A mapping that was just made can be unmapped; were it not so, its memory would have to
                // be kept.
                let unmapped = unmapped.unwrap_or_else(|_| Completion::never());
                engine.free_run_after(platform, unmapped, run);
                return Err(to_client(error));
            }
        };
        let mappings = first.iter().map(|(iova, _)| (*iova, bytes)).collect();
        let buffer = Buffer {
            session: Some(session),
            device,
            run,
            bytes,
            label,
            first,
            mappings,
            handles: 1,
            unmapped: Completion::none(),
            slot,
        };
        self.sessions.buffers.insert(id, buffer);
        if let Some(session) = self.sessions.sessions.get_mut(&session) {
            session.buffers.insert(id);
            session.buffer_bytes += bytes;
            session.mapped_bytes += to_map;
        }
        let handle = Handle::new(Object::Buffer(id), rights);
        let handle = self.handles.insert(handle);
        Ok(self.answer_handle(handle, completion))
    }

    /// Whether a client may map the `bytes` of a buffer from `offset` on, and what it gets then. Offsets
    /// other than zero are for clients that map a buffer in pieces.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`], [`Error::NotPermitted`] by the handle's rights, [`Error::ZeroSize`],
    /// [`Error::BadAlignment`].
    pub fn grant(
        &self,
        handle: HandleId,
        offset: u64,
        bytes: u64,
        writable: bool,
    ) -> Result<Grant, Error> {
        let handle = self.handles.get(handle)?;
        let Object::Buffer(id) = handle.object else { return Err(Error::WrongHandleKind) };
        handle.require(if writable { Rights::READ | Rights::WRITE } else { Rights::READ })?;
        let buffer = self.sessions.buffers.get(&id).ok_or(Error::BadHandle)?;
        if bytes == 0 {
            return Err(Error::ZeroSize);
        }
        if !offset.is_multiple_of(PAGE_SIZE) {
            return Err(Error::BadAlignment);
        }
        let end = offset.checked_add(bytes).ok_or(Error::Overflow)?;
        if end > buffer.bytes {
            return Err(Error::OutOfBuffer);
        }
        Ok(Grant { run: buffer.run, bytes: end, writable })
    }

    pub(crate) fn close_buffer(&mut self, id: BufferId) {
        let Some(buffer) = self.sessions.buffers.get_mut(&id) else { return };
        buffer.handles -= 1;
        if buffer.handles > 0 {
            return;
        }
        if !self.engine.has_iommu() && buffer.session.is_some() && !buffer.mappings.is_empty() {
            // A driver that dies unmaps nothing, and nothing but the end of its session, which takes bus mastering
            // away, keeps its device from this memory.
            return;
        }
        let Some(buffer) = self.sessions.buffers.remove(&id) else { return };
        let Self { engine, platform, sessions, .. } = self;
        let mut unmapped = buffer.unmapped;
        if buffer.session.is_none() {
            sessions.gone(buffer.device, buffer.bytes);
        }
        if let Some(session) = buffer.session.and_then(|id| sessions.sessions.get_mut(&id)) {
            session.buffers.remove(&id);
            session.buffer_bytes -= buffer.bytes;
            session.mapped_bytes -= buffer.mappings.values().sum::<u64>();
            engine.strike_record(platform, buffer.slot);
            for (iova, bytes) in buffer.mappings {
                // What cannot be unmapped may be reached for good: its memory is never used again.
                let gone = engine.unmap(platform, session.domain, iova, bytes);
                unmapped.join(&gone.unwrap_or_else(|_| Completion::never()));
            }
        }
        engine.free_run_after(platform, unmapped, buffer.run);
    }
}

/// What the driver of a device may hold.
pub(crate) fn quotas_of(engine: &Engine, device: PciAddress) -> Quotas {
    let policy = engine.device(device).map(|device| engine.policy_for(device));
    policy.unwrap_or_else(|| engine.policy().for_all()).quotas
}

/// What a client is told where there is no memory in one piece.
fn refusal(error: ContiguityError) -> Error {
    match error {
        ContiguityError::TooLong => Error::NotContiguous,
        ContiguityError::OutOfMemory => Error::OutOfMemory,
    }
}

/// Refuses what is no size of a buffer.
pub(crate) fn check_size(bytes: u64) -> Result<(), Error> {
    match bytes {
        0 => Err(Error::ZeroSize),
        _ if bytes > MAX_BUFFER_BYTES => Err(Error::TooLarge),
        _ if !bytes.is_multiple_of(PAGE_SIZE) => Err(Error::BadAlignment),
        _ => Ok(()),
    }
}

/// A label as text: printable ASCII without runs of blanks, so that a report cannot be made to say what it
/// does not.
fn label(bytes: &[u8; 32]) -> Result<String, Error> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = core::str::from_utf8(&bytes[..end]).map_err(|_| Error::BadValue)?;
    let plain = text.chars().all(|char| char.is_ascii_graphic() || char == ' ');
    if bytes[end..].iter().any(|byte| *byte != 0) || !plain || text.contains("  ") {
        return Err(Error::BadValue);
    }
    Ok(text.to_string())
}
