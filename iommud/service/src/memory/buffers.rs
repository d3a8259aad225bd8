//! Buffers: allocated, granted to clients' eyes, and given back.

use alloc::vec::Vec;

use dma_types::{Access, CacheType, Iova, PAGE_SIZE, PciAddress, PhysAddr};
use iommu_engine::completion::Completion;
use iommu_engine::engine::chain::NotMapped;
use iommu_engine::engine::runs::PieceSpec;
use iommu_engine::engine::{Engine, MapSpec};
use iommu_engine::platform::{ContiguityError, Platform, RunId};
use iommu_engine::policy::{Invalidation, Quotas};
use iommu_engine::retired::RetiredRun;
use libdma::Error;
use libdma::protocol::call::{access_from_code, cache_from_code};
use libdma::protocol::{MAX_BUFFER_BYTES, Rights, derive};

use crate::account::Usage;
use crate::error::to_client;
use crate::handles::bounds::Bounds;
use crate::handles::handle::{Handle, HandleId, Object};
use crate::handles::tree::DoneBy;
use crate::memory::label::Label;
use crate::memory::mapped::BufferMappings;
use crate::memory::mappings::{MappedAt, mapped_bytes};
use crate::pending::Outcome;
use crate::records::BufferRecord;
use crate::service::{ONE_REQUEST, Service};
use crate::sessions::session::{Buffer, BufferId, SessionId};

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

/// What a buffer is to be, judged as far as that takes no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferSpec {
    /// Its length.
    pub bytes: u64,
    /// What its I/O address is a multiple of.
    pub align: u64,
    /// How it is to be mapped at once, if at all.
    pub access: Option<Access>,
    /// The most that the device may do with it, if anything.
    pub allowed: Option<Access>,
    /// Its lowest I/O address.
    pub first: Iova,
    /// Its highest I/O address.
    pub limit: Iova,
    /// How CPUs are to cache it.
    pub cache: CacheType,
    /// The rights that its handle shall have.
    pub rights: Rights,
    /// At which address its memory is in the object that the client supplies. Zero for memory of iommud's.
    pub address: u64,
    /// What reports call it.
    pub label: Label,
}

/// Why there is no buffer.
pub(crate) struct Refused {
    pub(crate) error: Error,
    /// Whether no device reaches the run, so that it is the caller's again.
    pub(crate) is_out_of_reach: bool,
}

impl BufferSpec {
    fn of_allocate(request: &derive::Allocate) -> Result<Self, Error> {
        let derive::Allocate { bytes, align, access, limit, cache, reserved, .. } = request;
        if reserved.get() != 0 {
            return Err(Error::BadValue);
        }
        let limit = Iova::new(limit.get());
        let cache = cache_from_code(cache.get())?;
        let spec = Self::new(bytes.get(), align.get(), access.get(), limit, &request.label)?;
        Ok(Self { cache, ..spec })
    }

    /// Refuses what no buffer can be.
    pub(crate) fn new(
        bytes: u64,
        align: u64,
        access: u32,
        limit: Iova,
        label: &[u8; 32],
    ) -> Result<Self, Error> {
        check_size(bytes)?;
        if !align.is_power_of_two() || align < PAGE_SIZE {
            return Err(Error::BadAlignment);
        }
        let access = match access {
            0 => None,
            code => Some(access_from_code(code)?),
        };
        Ok(Self {
            bytes,
            align,
            access,
            allowed: Some(Access::ReadWrite),
            first: Iova::new(0),
            limit,
            cache: CacheType::WriteBack,
            rights: Rights::BUFFER,
            address: 0,
            label: Label::try_from(label)?,
        })
    }

    /// The same within these bounds.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if it is to be mapped at once as it may not be.
    pub(crate) fn within(self, bounds: &Bounds) -> Result<Self, Error> {
        let (first, limit) = (bounds.first, self.limit.min(bounds.last));
        let spec = Self { first, limit, allowed: bounds.limit(self.allowed), ..self };
        if spec.is_allowed() { Ok(spec) } else { Err(Error::NotPermitted) }
    }

    /// Whether it is to be mapped at once as the device may have it, or not at all.
    pub(crate) fn is_allowed(&self) -> bool {
        let within = |access: Access| self.allowed.is_some_and(|allowed| access.is_within(allowed));
        self.access.is_none_or(within)
    }

    /// What it will hold, but for tables.
    pub(crate) fn usage(&self) -> Usage {
        let mapping = self.access.map_or(Usage::NONE, |_| Usage::mappings(1, self.bytes));
        Usage::buffer(self.bytes).and(&mapping.with_addresses())
    }
}

impl<P: Platform> Service<P> {
    /// Makes a buffer for a session, by one of its handles: memory, in one physical piece if it must be, a mapping if one is wanted, and a
    /// record of both.
    pub(crate) fn allocate(
        &mut self,
        (session, by): (SessionId, HandleId),
        request: &derive::Allocate,
        contiguous: bool,
        rights: Rights,
    ) -> Result<Outcome<HandleId>, Error> {
        let spec = BufferSpec::of_allocate(request)?.within(&self.bounds_of(by))?;
        let account = self.account_by(session, by)?;
        self.claim(account, &spec.usage().and(&ONE_REQUEST))?;
        let run = self.alloc_run(session, &spec, contiguous)?;
        let cache = self.platform.set_cache_type(run, spec.cache);
        let spec = BufferSpec { cache, rights, ..spec };
        let (id, completion) = match self.install((session, by), spec, run) {
            Ok(installed) => installed,
            Err(refused) => {
                if refused.is_out_of_reach {
                    self.engine.free_run(&mut self.platform, run);
                }
                return Err(refused.error);
            }
        };
        let handle = self.handles.insert_below(Handle::new(Object::Buffer(id), rights), &[by]);
        Ok(self.answer_handle(handle, completion))
    }

    /// Memory for a buffer, in one physical piece if it must be.
    fn alloc_run(
        &mut self,
        session: SessionId,
        spec: &BufferSpec,
        contiguous: bool,
    ) -> Result<RunId, Error> {
        let Self { engine, platform, sessions, .. } = self;
        let in_pieces = |platform: &mut P| platform.alloc_run(spec.bytes).ok_or(Error::OutOfMemory);
        if engine.has_iommu() && !contiguous {
            return in_pieces(platform);
        }
        let holder = sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        let domain = engine.domain(holder.domain).ok_or(Error::SessionEnded)?;
        // Without an IOMMU, physical addresses are what the device puts on its bus.
        let last = (1 << domain.abilities().address_bits.clamp(12, 63)) - 1;
        let limit = if engine.has_iommu() { u64::MAX } else { spec.limit.get() };
        let piece = PieceSpec {
            device: holder.device,
            bytes: spec.bytes,
            // An IOMMU makes any address of it.
            align: if engine.has_iommu() { PAGE_SIZE } else { spec.align },
            limit: PhysAddr::new(limit),
            reserve_first: contiguous || limit < last,
        };
        match engine.alloc_contiguous_run(platform, &piece) {
            Ok(run) => Ok(run),
            // What is not mapped yet may be mapped piece by piece.
            Err(_) if !contiguous && spec.access.is_none() => in_pieces(platform),
            Err(error) => Err(refusal(error)),
        }
    }

    /// Makes a buffer of a run, which other buffers may be of already: its mapping if one is wanted, and the record
    /// of both.
    pub(crate) fn install(
        &mut self,
        (session, by): (SessionId, HandleId),
        spec: BufferSpec,
        run: RunId,
    ) -> Result<(BufferId, Completion), Refused> {
        let BufferSpec { bytes, align, access, first: lowest, limit, .. } = spec;
        self.set_numbers_aside().map_err(|error| Refused { error, is_out_of_reach: true })?;
        let unreached = |error| Refused { error, is_out_of_reach: true };
        let holder = self.sessions.sessions.get(&session).ok_or(unreached(Error::SessionEnded))?;
        let (device, domain) = (holder.device, holder.domain);
        if access.is_some() && self.engine.is_blocked(device) {
            return Err(unreached(Error::Quarantined));
        }
        let account = self.account_by(session, by).map_err(unreached)?;
        // Before a client has it, what is not confined must not reach it.
        self.engine.follow_arenas(&mut self.platform);
        let kept = self.engine.kept_from_unconfined(&self.platform, run);
        let id = self.sessions.next_buffer();
        let mapped = access.map(|access| {
            let spec =
                MapSpec { run, offset: 0, bytes, access, align, first: lowest, limit, owner: id.0 };
            let mapped = self
                .on_account(account, |engine, platform| Ok(engine.map(platform, domain, &spec)?));
            mapped.map(|(iova, completion)| ((iova, access), completion))
        });
        let (first, completion) = match mapped.transpose() {
            Ok(None) => (None, kept),
            Ok(Some((first, mut completion))) => {
                completion.join(&kept);
                (Some(first), completion)
            }
            Err(NotMapped { error, .. }) => return Err(unreached(to_client(error))),
        };
        let Self { engine, platform, runs, .. } = self;
        let record = BufferRecord {
            buffer: id,
            session,
            run,
            bytes,
            first,
            rights: spec.rights,
            allowed: spec.allowed,
            cache: spec.cache,
            label: spec.label.bytes(),
            place: platform.place(run),
            is_revoked: false,
            is_strict: false,
        };
        runs.enter(run);
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
                let error = to_client(error);
                // What other buffers are of too is freed with the last of them.
                let alone = self.runs.leave(run, &unmapped);
                let is_out_of_reach = alone.as_ref().is_some_and(|unmapped| self.is_done(unmapped));
                if let (Some(unmapped), false) = (alone, is_out_of_reach) {
                    // It counts until it is free.
                    self.accounts.add(account, &Usage::buffer(bytes));
                    let run = RetiredRun { run, bytes, payer: account.into(), record: None };
                    self.engine.free_run_after(&mut self.platform, unmapped, run);
                }
                return Err(Refused { error, is_out_of_reach });
            }
        };
        let by = DoneBy::itself(by);
        let mappings: BufferMappings =
            first.iter().map(|(iova, _)| ((domain, *iova), by)).collect();
        let mapped = Usage::mappings(mappings.len() as u64, first.map_or(0, |_| bytes));
        self.accounts.add(account, &Usage::buffer(bytes).and(&mapped));
        let buffer = Buffer {
            session: Some(session),
            device,
            account,
            run,
            bytes,
            cache: spec.cache,
            label: spec.label,
            allowed: spec.allowed,
            rights: spec.rights,
            first,
            is_told: false,
            mappings,
            handles: 1,
            revoked: 0,
            is_ended: false,
            unmapped: Completion::none(),
            is_noted_strict: false,
            slot,
        };
        self.sessions.buffers.insert(id, buffer);
        if let Some(session) = self.sessions.sessions.get_mut(&session) {
            session.buffers.insert(id);
        }
        Ok((id, completion))
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

    /// Counts a handle to a buffer no more, and ends the buffer with its last.
    pub(crate) fn close_buffer(&mut self, id: BufferId, was_revoked: bool) {
        let Some(buffer) = self.sessions.buffers.get_mut(&id) else { return };
        buffer.handles -= 1;
        buffer.revoked -= u32::from(was_revoked);
        if buffer.handles > 0 {
            if buffer.is_revoked() {
                // Nobody is left who may have it mapped.
                self.end_buffer(id);
                self.unmap_revoked(id);
            }
            return;
        }
        if !self.engine.has_iommu() && buffer.session.is_some() && buffer.is_known_to_a_driver() {
            // A driver that dies unmaps nothing, and nothing but the end of its session, which takes bus mastering
            // away, keeps its device from this memory. One that never learned where it is has nothing to unmap.
            return;
        }
        let Some(mut buffer) = self.sessions.buffers.remove(&id) else { return };
        let Self { engine, platform, sessions, accounts, .. } = self;
        if let Some(session) = buffer.session.and_then(|id| sessions.sessions.get_mut(&id)) {
            session.buffers.remove(&id);
            let (now, named) = (platform.now(), (id.0, buffer.label));
            session.history.add_all(engine, now, named, &buffer.mappings, None);
            accounts.unmapping(engine, &buffer.mappings, None);
            buffer.unmapped.join(&unmap_everywhere(engine, platform, &buffer.mappings));
        }
        self.retire_buffer(buffer);
    }

    /// Frees the memory of a buffer that has gone, when no other is of it and nothing reaches it.
    pub(crate) fn retire_buffer(&mut self, buffer: Buffer) {
        let Buffer { run, bytes, account, slot, unmapped, .. } = buffer;
        let Self { engine, platform, runs, accounts, .. } = self;
        let retired = RetiredRun { run, bytes, payer: account.into(), record: Some(slot) };
        if !runs.retire(engine, platform, retired, &unmapped) {
            // The memory is on the accounts of those who are left.
            accounts.release(account, &Usage::buffer(bytes));
        }
    }
}

/// Unmaps a buffer wherever it is mapped, each domain at one go. What cannot be unmapped may be reached for good: its
/// memory is never used again.
pub(crate) fn unmap_everywhere(
    engine: &mut Engine,
    platform: &mut impl Platform,
    mappings: &BufferMappings,
) -> Completion {
    let mut unmapped = Completion::none();
    let range = |at: &MappedAt| (at.0, (at.1, mapped_bytes(engine, *at)));
    let all: Vec<_> = mappings.keys().map(range).collect();
    for there in all.chunk_by(|(one, _), (other, _)| one == other) {
        let ranges = there.iter().map(|(_, range)| *range);
        let gone = engine.unmap_all(platform, there[0].0, ranges, Invalidation::Deferred);
        unmapped.join(&gone.unwrap_or_else(|_| Completion::never()));
    }
    unmapped
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
        ContiguityError::AboveLimit => Error::NoAddressSpace,
        ContiguityError::OutOfMemory => Error::OutOfMemory,
    }
}

/// Refuses what is no size of a buffer.
#[inline]
pub(crate) fn check_size(bytes: u64) -> Result<(), Error> {
    match bytes {
        0 => Err(Error::ZeroSize),
        _ if bytes > MAX_BUFFER_BYTES => Err(Error::TooLarge),
        _ if !bytes.is_multiple_of(PAGE_SIZE) => Err(Error::BadAlignment),
        _ => Ok(()),
    }
}
