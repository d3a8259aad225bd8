//! The calls on handles, and batches of them.

use dma_types::PAGE_SIZE;
use iommu_engine::completion::Completion;
use iommu_engine::platform::Platform;
use libdma::Error;
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, BatchHeader, BufferInfo, DEVICE_FLAG_NOT_CONFINED,
    DEVICE_FLAG_WRITE_IMPLIES_READ, DeviceInfo, Hello, Opcode, UNMAPPED, Welcome, access_code,
    cache_code,
};
use libdma::protocol::handle::HandleInfo;
use libdma::protocol::{MAX_BATCH, Rights, Secret, VERSION};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::handles::bounds::Bounds;
use crate::handles::handle::{Greeting, HandleId, Object};
use crate::pending::Undo;
use crate::service::Service;
use crate::sessions::session::SessionId;

/// An answer, but for its bytes, which are in the payload.
pub(crate) struct Answered {
    /// How long it is.
    pub(crate) length: usize,
    /// What must be confirmed before it may be given.
    pub(crate) completion: Completion,
    /// What is to be taken back if that never happens.
    pub(crate) undo: Undo,
}

impl Answered {
    pub(crate) fn now(length: usize) -> Self {
        Self::after(length, Completion::none())
    }

    pub(crate) fn after(length: usize, completion: Completion) -> Self {
        Self { length, completion, undo: Undo::new() }
    }
}

impl<P: Platform> Service<P> {
    pub(crate) fn dispatch(
        &mut self,
        handle: HandleId,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        match opcode {
            Opcode::Hello => self.hello(handle, payload),
            Opcode::DeviceInfo => self.device_info(handle, payload),
            Opcode::BufferInfo => self.buffer_info(handle, payload),
            Opcode::Offer => self.offer(handle, payload),
            Opcode::Enter => self.enter(handle, payload),
            Opcode::Leave => self.leave(handle, payload),
            Opcode::Lookup => self.lookup(handle, payload),
            Opcode::DomainInfo => self.domain_info(handle, payload),
            Opcode::HandleInfo => self.handle_info(handle, payload),
            Opcode::Limit => self.last_limit(handle, payload),
            Opcode::Revoke => self.revoke(handle, payload),
            // These are answered by another way.
            Opcode::Map | Opcode::Unmap | Opcode::Reset => Err(Error::UnknownCall),
            Opcode::Resume => self.resume(handle, payload),
            Opcode::EndResume => self.end_resume(handle),
            Opcode::Next => self.next(handle, payload),
            Opcode::Events => self.read_events(handle, payload),
            Opcode::Release => self.release(handle),
            // Simulated devices are the daemon's, beside the service.
            Opcode::SimRead | Opcode::SimWrite => {
                self.handles.get(handle)?;
                Err(Error::WrongHandleKind)
            }
        }
    }

    fn hello(&mut self, handle: HandleId, payload: &mut [u8]) -> Result<Answered, Error> {
        let handle = self.handles.get_mut(handle)?;
        let (hello, _) = Hello::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        if hello.magic != Hello::MAGIC {
            return Err(Error::BadValue);
        }
        if hello.version.get() != VERSION {
            return Err(Error::VersionMismatch);
        }
        handle.greeting = Greeting::Said;
        let welcome = Welcome { version: U32::new(VERSION), max_batch: U32::new(MAX_BATCH as u32) };
        answer(payload, &welcome)
    }

    fn device_info(&mut self, handle: HandleId, payload: &mut [u8]) -> Result<Answered, Error> {
        let id = self.device_of(handle, Rights::INSPECT)?;
        // The secret proves a claim to all that the session holds, whatever becomes of the handle: so a weaker one is not told
        // it, nor one that can be revoked by what it was derived from (R3). What that was is no matter where it is closed.
        let known = self.handles.get(handle)?;
        let whole = known.rights == Rights::DEVICE && known.bounds == Bounds::NONE;
        let whole = whole && self.handles.tree().open_above(handle).is_empty();
        let session = self.sessions.sessions.get(&id).ok_or(Error::SessionEnded)?;
        let domain = self.engine.domain(session.domain).ok_or(Error::SessionEnded)?;
        let abilities = domain.abilities();
        let mut flags = if abilities.write_needs_read { DEVICE_FLAG_WRITE_IMPLIES_READ } else { 0 };
        if !self.engine.has_iommu() {
            flags |= DEVICE_FLAG_NOT_CONFINED;
        }
        // Through an IOMMU, whatever memory there is is one piece.
        let longest_piece = if self.engine.has_iommu() {
            0
        } else {
            self.engine.longest_piece(&self.platform, session.device) / PAGE_SIZE
        };
        let info = DeviceInfo {
            segment: U16::new(session.device.segment()),
            source: U16::new(session.device.source().get()),
            address_bits: U32::new(abilities.address_bits.into()),
            generation: U64::new(session.generation),
            domain: U64::new(session.domain.0),
            secret: if whole { session.secret } else { Secret::NONE },
            flags: U32::new(flags),
            longest_piece: U32::new(u32::try_from(longest_piece).unwrap_or(u32::MAX)),
            session: U64::new(id.0),
        };
        answer(payload, &info)
    }

    fn buffer_info(&mut self, handle: HandleId, payload: &mut [u8]) -> Result<Answered, Error> {
        let handle = self.handles.get(handle)?;
        let id = match handle.object {
            Object::Buffer(id) => id,
            Object::PeerBar(id) => {
                handle.require(Rights::INSPECT)?;
                let peer_bar = self.peer_bars.get(&id).ok_or(Error::SessionEnded)?;
                return answer(payload, &peer_bar.info(id, handle.rights));
            }
            _ => return Err(Error::WrongHandleKind),
        };
        handle.require(Rights::INSPECT)?;
        let buffer = self.sessions.buffers.get_mut(&id).ok_or(Error::BadHandle)?;
        buffer.is_told = true;
        let info = BufferInfo {
            buffer: U64::new(id.0),
            bytes: U64::new(buffer.bytes),
            iova: U64::new(buffer.first.map_or(UNMAPPED, |(iova, _)| iova.get())),
            access: U32::new(buffer.first.map_or(0, |(_, access)| access_code(access))),
            rights: U32::new(handle.rights.bits()),
            cache: U32::new(cache_code(buffer.cache)),
            reserved: U32::ZERO,
        };
        answer(payload, &info)
    }

    fn handle_info(&mut self, id: HandleId, payload: &mut [u8]) -> Result<Answered, Error> {
        let handle = self.handles.get(id)?;
        if let Object::Root | Object::Text(_) = handle.object {
            return Err(Error::WrongHandleKind);
        }
        handle.check_greeted()?;
        let above = self.handles.tree().open_above(id);
        let info = HandleInfo {
            handle: U64::new(id.0),
            parent: U64::new(above.first().map_or(0, |parent| parent.0)),
            rights: U32::new(handle.rights.bits()),
            access: U32::new(access_code(handle.bounds.access)),
            first: U64::new(handle.bounds.first.get()),
            last: U64::new(handle.bounds.last.get()),
        };
        answer(payload, &info)
    }

    /// The session of a device handle that has these rights.
    pub(crate) fn device_of(&self, handle: HandleId, rights: Rights) -> Result<SessionId, Error> {
        let handle = self.handles.get(handle)?;
        let Object::Device(session) = handle.object else { return Err(Error::WrongHandleKind) };
        handle.require(rights)?;
        Ok(session)
    }
}

/// Writes an answer over the payload.
pub(crate) fn answer(
    payload: &mut [u8],
    answer: &(impl IntoBytes + Immutable),
) -> Result<Answered, Error> {
    let bytes = answer.as_bytes();
    payload.get_mut(..bytes.len()).ok_or(Error::ShortPayload)?.copy_from_slice(bytes);
    Ok(Answered::now(bytes.len()))
}

/// A batch of one, as most are.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct One<Entry> {
    header: BatchHeader,
    pub(crate) entry: Entry,
}

impl<Entry> One<Entry>
where
    Entry: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
{
    /// How long it is, and its answer.
    pub(crate) const LENGTH: usize = size_of::<Self>();

    /// The batch in these bytes, if it is of one entry, and such as [`Batch::parse`] would take; and whether it is strict.
    #[inline(always)]
    pub(crate) fn parse(payload: &mut [u8]) -> Option<(&mut Entry, bool)> {
        let (one, _) = Self::mut_from_prefix(payload).ok()?;
        let BatchHeader { count, failed, errno, flags } = one.header;
        let is_plain = (count.get(), failed.get(), errno.get()) == (1, 0, 0);
        let is_known = flags.get() & !BATCH_FLAG_STRICT == 0;
        (is_plain && is_known).then_some((&mut one.entry, flags.get() != 0))
    }
}

/// A batch in its payload.
pub(crate) struct Batch<'a, Entry> {
    header: &'a mut BatchHeader,
    pub(crate) entries: &'a mut [Entry],
}

impl<'a, Entry> Batch<'a, Entry>
where
    Entry: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
{
    /// The batch in these bytes, whose header has none but the `known` flags.
    #[inline(always)]
    pub(crate) fn parse(payload: &'a mut [u8], known: u32) -> Result<Self, Error> {
        let (header, rest) =
            BatchHeader::mut_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let count = header.count.get() as usize;
        if count == 0 {
            return Err(Error::EmptyBatch);
        }
        if count > MAX_BATCH {
            return Err(Error::BatchTooLarge);
        }
        if (header.failed.get(), header.errno.get(), header.flags.get() & !known) != (0, 0, 0) {
            return Err(Error::BadValue);
        }
        let (entries, _) =
            <[Entry]>::mut_from_prefix_with_elems(rest, count).map_err(|_| Error::ShortPayload)?;
        Ok(Self { header, entries })
    }

    /// What its header asks for.
    pub(crate) fn flags(&self) -> u32 {
        self.header.flags.get()
    }

    /// How long the batch is, and its answer.
    pub(crate) fn length(&self) -> usize {
        size_of::<BatchHeader>() + size_of_val(self.entries)
    }

    /// Says that nothing was done, because of this entry.
    #[inline(never)]
    pub(crate) fn refuse(&mut self, index: usize, error: Error) -> usize {
        self.header.failed = U32::new(index as u32);
        self.header.errno = U32::new(error.errno().into());
        self.length()
    }
}
