//! Buffers in domains: mapped, unmapped and looked up, a batch at a time.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use dma_types::{Iova, PAGE_SIZE};
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::domain::{DomainKey, Mapping, Place};
use iommu_engine::engine::MapSpec;
use iommu_engine::engine::chain::{ChainPiece, NotMapped};
use iommu_engine::platform::Platform;
use iommu_engine::policy::{Invalidation, Resource};
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, MAP_FLAG_AT, MAP_FLAG_BEHIND, MapEntry, UnmapEntry, access_code,
    access_from_code,
};
use libdma::protocol::domain::{Found, Lookup};
use libdma::protocol::resume::Next;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros};

use crate::account::{AccountId, Usage};
use crate::calls::{Answered, Batch, answer};
use crate::error::to_client;
use crate::faults::history::Past;
use crate::handles::bounds::Bounds;
use crate::handles::handle::{HandleId, Object};
use crate::handles::tree::{DoneBy, Gone};
use crate::memory::buffers::check_size;
use crate::pending::Undo;
use crate::service::{ONE_REQUEST, Service};
use crate::sessions::session::{BufferId, SessionId};

/// An address space, and whose buffers are mapped in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// The session of the buffers.
    pub(crate) session: SessionId,
    /// Where they are mapped.
    pub(crate) domain: DomainKey,
    /// If only what is on one account is known, and on those below it.
    pub(crate) within: Option<AccountId>,
}

/// Where a buffer is mapped.
pub type MappedAt = (DomainKey, Iova);

/// A mapping of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferMapping {
    /// How long it is.
    pub bytes: u64,
    /// On which account it is.
    pub account: AccountId,
    /// Whether it is the only one of its memory.
    pub is_strict: bool,
    /// The handle by which it was made.
    pub by: DoneBy,
}

/// Who asks for something in an address space: it is looked up once for each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) space: Space,
    /// By which handle.
    by: HandleId,
    /// Whether that is the device's, and not a domain's.
    is_device: bool,
    /// On which account it is what is done.
    account: AccountId,
    /// What is mapped is within these.
    bounds: Bounds,
}

/// A mapping of a buffer, as it is looked up once for each request that takes it away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    buffer: BufferId,
    iova: Iova,
    mapping: Mapping,
    noted: BufferMapping,
}

impl<P: Platform> Service<P> {
    /// Who asks by a handle that has these rights.
    #[inline]
    pub(crate) fn asker(&self, by: HandleId, rights: Rights) -> Result<Asker, Error> {
        let handle = self.handles.get(by)?;
        let (session, explicit) = match handle.object {
            Object::Device(session) => (Some(session), None),
            Object::Domain(domain) => {
                (self.domains.get(&domain).map(|explicit| explicit.session), Some(domain))
            }
            _ => return Err(Error::WrongHandleKind),
        };
        handle.require(rights)?;
        let session = session.ok_or(Error::SessionEnded)?;
        let held = self.sessions.sessions.get(&session).ok_or(Error::SessionEnded)?;
        let (domain, bounds) = (explicit.unwrap_or(held.domain), handle.bounds);
        let space = Space { session, domain, within: bounds.account };
        let account = bounds.account.unwrap_or(held.account);
        Ok(Asker { space, by, is_device: explicit.is_none(), account, bounds })
    }

    /// Maps every entry of a batch or none (rule R7), strictly if it says so.
    pub(crate) fn map_batch(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        let asker = self.asker(handle, Rights::MAP)?;
        let Asker { space, account, .. } = asker;
        if asker.is_device {
            self.check_released(space.session)?;
        }
        let mut batch: Batch<'_, MapEntry> = Batch::parse(payload, BATCH_FLAG_STRICT)?;
        let is_strict = batch.flags() & BATCH_FLAG_STRICT != 0;
        let usage = usage_of(batch.entries);
        // All limits at one go. Where the batch is not within them, it is to be said which entry is not.
        let is_charged = batch.entries.iter().all(|entry| check_size(entry.bytes.get()).is_ok())
            && self.has_room(account, &usage.with_addresses().and(&ONE_REQUEST));
        if is_charged {
            self.accounts.mapped(account, &usage);
        } else {
            self.claim(account, &ONE_REQUEST)?;
        }
        let mut all = Completion::none();
        let mut first = 0;
        while first < batch.entries.len() {
            let behind = batch.entries[first + 1..].iter();
            let behind = behind.take_while(|entry| entry.flags.get() & MAP_FLAG_BEHIND != 0);
            let next = first + 1 + behind.count();
            match self.map_chain(&asker, &batch.entries[first..next], is_strict, is_charged) {
                Ok((iova, completion)) => {
                    let mut address = iova.get();
                    for entry in &mut batch.entries[first..next] {
                        entry.iova = U64::new(address);
                        address += entry.bytes.get();
                        if is_strict {
                            let lasting = self.lasting(BufferId(entry.buffer.get()));
                            join(&mut all, &lasting);
                        }
                    }
                    join(&mut all, &completion);
                }
                Err((index, error)) => {
                    if is_charged {
                        self.accounts.release(account, &usage_of(&batch.entries[first..]));
                    }
                    // What was just mapped can be unmapped. Nobody has been told of it, but hardware may have seen it:
                    // its addresses stay out of use until that is over.
                    let made = ranges_of(&batch.entries[..first]);
                    let _ = self.unmap_ranges(space, &made, Invalidation::Deferred);
                    batch.entries[..first].iter_mut().for_each(|done| done.iova = U64::ZERO);
                    return Ok(Answered::now(batch.refuse(first + index, error)));
                }
            }
            first = next;
        }
        if self.is_confirmed(&all) {
            return Ok(Answered::now(batch.length()));
        }
        let undo = Undo::from([(space, ranges_of(batch.entries))]);
        Ok(Answered { undo, ..Answered::after(batch.length(), all) })
    }

    /// Maps one entry, or several of which each lies behind the one before, which have been charged or are to be. If not,
    /// which it is because of.
    fn map_chain(
        &mut self,
        asker: &Asker,
        entries: &[MapEntry],
        is_strict: bool,
        is_charged: bool,
    ) -> Result<(Iova, Completion), (usize, Error)> {
        let mut pieces = core::mem::take(&mut self.pieces);
        pieces.clear();
        let found = self.pieces_of(asker, entries, is_strict, &mut pieces);
        let mapped =
            found.and_then(|()| self.map_pieces(asker, entries, &pieces, is_strict, is_charged));
        self.pieces = pieces;
        mapped
    }

    /// The parts of buffers that entries name, if all may be mapped.
    fn pieces_of(
        &self,
        asker: &Asker,
        entries: &[MapEntry],
        is_strict: bool,
        pieces: &mut Vec<ChainPiece>,
    ) -> Result<(), (usize, Error)> {
        for (index, entry) in entries.iter().enumerate() {
            let allowed = if index == 0 { MAP_FLAG_AT } else { MAP_FLAG_BEHIND };
            let piece =
                self.piece_of(asker, entry, allowed, is_strict).map_err(|error| (index, error))?;
            if is_strict && pieces.iter().any(|other| other.run == piece.run) {
                return Err((index, Error::MappedElsewhere));
            }
            pieces.push(piece);
        }
        Ok(())
    }

    /// Maps the parts of buffers that entries name.
    fn map_pieces(
        &mut self,
        &Asker { space, by, account, bounds, .. }: &Asker,
        entries: &[MapEntry],
        pieces: &[ChainPiece],
        is_strict: bool,
        is_charged: bool,
    ) -> Result<(Iova, Completion), (usize, Error)> {
        let limit = entries.iter().map(|entry| entry.limit.get()).min().unwrap_or(u64::MAX);
        let (first, limit) = (bounds.first, bounds.last.min(Iova::new(limit)));
        let usage = usage_of(entries);
        if !is_charged {
            self.claim(account, &usage.with_addresses()).map_err(|error| (0, error))?;
        }
        let align = PAGE_SIZE;
        let flags = entries.first().map_or(0, |entry| entry.flags.get());
        let chosen = flags & MAP_FLAG_AT != 0;
        let start = Iova::new(entries.first().map_or(0, |entry| entry.iova.get()));
        if chosen
            && bounds.account.is_some()
            && !bounds.contain(start, usage[Resource::MappedBytes])
        {
            return Err((0, Error::OutsideWindow));
        }
        pieces.iter().for_each(|piece| self.note_strict(BufferId(piece.owner), is_strict));
        let mapped = self.on_account(account, |engine, platform| match (pieces, chosen) {
            (&[ChainPiece { run, offset, bytes, access, owner }], false) => {
                let spec = MapSpec { run, offset, bytes, access, align, first, limit, owner };
                // At a multiple of its length rounded up to a power of two it crosses no larger one, as a device may
                // want it; Linux's addresses are such. Where there is no room for that, or without an IOMMU
                // the memory lies elsewhere, any page will do.
                let natural = MapSpec { align: bytes.next_power_of_two(), ..spec };
                let mapped = engine.map(platform, space.domain, &natural).or_else(|error| {
                    match to_client(error) {
                        Error::NoAddressSpace | Error::NotContiguous => {
                            engine.map(platform, space.domain, &spec)
                        }
                        _ => Err(error),
                    }
                });
                mapped.map_err(NotMapped::from)
            }
            (pieces, _) => {
                let place = match chosen {
                    true => Place::At { iova: start, limit },
                    false => Place::Anywhere { align, first, limit },
                };
                engine.map_chain(platform, space.domain, place, pieces)
            }
        });
        let Self { sessions, accounts, .. } = self;
        let (iova, completion) = mapped.map_err(|NotMapped { error, lasting }| {
            for piece in pieces {
                // Its memory must outlast what units may hold of the attempt.
                if let Some(buffer) = sessions.buffers.get_mut(&BufferId(piece.owner)) {
                    buffer.unmapped.join(&lasting);
                }
            }
            (0, to_client(error))
        })?;
        let mut address = iova;
        for &ChainPiece { bytes, owner, .. } in pieces {
            if let Some(buffer) = sessions.buffers.get_mut(&BufferId(owner)) {
                let by = DoneBy::itself(by);
                let mapping = BufferMapping { bytes, account, is_strict, by };
                buffer.mappings.insert((space.domain, address), mapping);
            }
            address = Iova::new(address.get() + bytes);
        }
        if !is_charged {
            accounts.mapped(account, &usage);
        }
        Ok((iova, completion))
    }

    /// What handles have mapped of which nothing is left, and where devices are by them, is from then on of the nearest that
    /// they were derived from.
    pub(crate) fn leave_mappings_to_heirs(&mut self, gone: &[(Object, Gone)]) {
        let heirs: BTreeMap<HandleId, HandleId> =
            gone.iter().filter_map(|(_, gone)| Some((gone.handle, gone.heir?))).collect();
        if heirs.is_empty() {
            return;
        }
        let inherit = |by: &mut DoneBy| by.leave_to(heirs.get(&by.handle).copied());
        for session in self.sessions.sessions.values_mut() {
            session.entered.iter_mut().flat_map(|it| &mut it.by).for_each(inherit);
        }
        let sessions: BTreeSet<SessionId> =
            gone.iter().filter_map(|(object, _)| self.session_of_mapper(object)).collect();
        for session in sessions {
            let Some(session) = self.sessions.sessions.get(&session) else { continue };
            for id in &session.buffers {
                let Some(buffer) = self.sessions.buffers.get_mut(id) else { continue };
                buffer.mappings.values_mut().for_each(|mapping| inherit(&mut mapping.by));
            }
        }
    }

    /// The part of a buffer that an entry names, if it is one that the session may have mapped so.
    #[inline]
    fn piece_of(
        &self,
        &Asker { space, bounds, .. }: &Asker,
        entry: &MapEntry,
        allowed: u32,
        is_strict: bool,
    ) -> Result<ChainPiece, Error> {
        let (offset, bytes) = (entry.offset.get(), entry.bytes.get());
        check_size(bytes)?;
        if !offset.is_multiple_of(PAGE_SIZE) {
            return Err(Error::BadAlignment);
        }
        if entry.flags.get() & !allowed != 0 {
            return Err(Error::BadValue);
        }
        let access = access_from_code(entry.access.get())?;
        let id = BufferId(entry.buffer.get());
        let buffer = self.sessions.buffers.get(&id).ok_or(Error::WrongOwner)?;
        if buffer.session != Some(space.session) || !self.knows(space, buffer.account) {
            return Err(Error::WrongOwner);
        }
        if buffer.is_revoked() {
            return Err(Error::Revoked);
        }
        let end = offset.checked_add(bytes).ok_or(Error::Overflow)?;
        if end > buffer.bytes {
            return Err(Error::OutOfBuffer);
        }
        if !buffer.allows(access) || !access.is_within(bounds.access) {
            return Err(Error::NotPermitted);
        }
        self.check_only(buffer, is_strict)?;
        Ok(ChainPiece { run: buffer.run, offset, bytes, access, owner: id.0 })
    }

    /// Unmaps every entry of a batch or none (rule R7). It is done when no unit holds any of it (rule R2), but where the
    /// policy has clients answered sooner and this one does not object.
    pub(crate) fn unmap_batch(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        let Asker { space, account, .. } = self.asker(handle, Rights::MAP)?;
        let mut batch: Batch<'_, UnmapEntry> = Batch::parse(payload, BATCH_FLAG_STRICT)?;
        let when = match batch.flags() & BATCH_FLAG_STRICT {
            0 => Invalidation::Deferred,
            _ => Invalidation::Strict,
        };
        let count = batch.entries.len() as u64;
        self.claim(account, &ONE_REQUEST.with(Resource::Operations, count))?;
        let mut known = core::mem::take(&mut self.known);
        known.clear();
        let answered = self.unmap_entries(space, &mut batch, when, &mut known);
        self.known = known;
        let completion = answered?;
        Ok(Answered::after(batch.length(), completion))
    }

    /// Unmaps what entries name, or says in the batch which is none.
    fn unmap_entries(
        &mut self,
        space: Space,
        batch: &mut Batch<'_, UnmapEntry>,
        when: Invalidation,
        known: &mut Vec<Known>,
    ) -> Result<Completion, Error> {
        for (index, entry) in batch.entries.iter().enumerate() {
            let (iova, bytes) = (Iova::new(entry.iova.get()), entry.bytes.get());
            let Some(found) = self.mapped_at(space, iova, bytes) else {
                batch.refuse(index, Error::NotMapped);
                return Ok(Completion::none());
            };
            known.push(found);
        }
        let at_once = self.engine.answers_at_once(space.domain, when);
        let unmapped = self.unmap_known(space, known, when);
        if unmapped == Err(Error::NotMapped)
            && let Some(index) = named_twice(known)
        {
            batch.refuse(index, Error::NotMapped);
            return Ok(Completion::none());
        }
        let unmapped = unmapped?;
        let mut completion = if at_once { Completion::none() } else { unmapped };
        // Who did not await the answer to the map would else be told that nothing is reached while what was mapped before is.
        for found in known.iter().filter(|it| when == Invalidation::Strict && it.noted.is_strict) {
            let lasting = self.lasting(found.buffer);
            join(&mut completion, &lasting);
        }
        Ok(completion)
    }

    /// Unmaps what is mapped there, all of it or nothing: by batches that are gathered, if this and the policy allow it.
    pub(crate) fn unmap_ranges(
        &mut self,
        space: Space,
        ranges: &[(Iova, u64)],
        when: Invalidation,
    ) -> Result<Completion, Error> {
        let known = ranges.iter().map(|(iova, bytes)| self.mapped_at(space, *iova, *bytes));
        let known: Option<Vec<_>> = known.collect();
        self.unmap_known(space, &known.ok_or(Error::NotMapped)?, when)
    }

    /// The same of what has been looked up.
    fn unmap_known(
        &mut self,
        space: Space,
        known: &[Known],
        when: Invalidation,
    ) -> Result<Completion, Error> {
        let Self { engine, platform, sessions, accounts, .. } = self;
        let ranges = known.iter().map(|it| (it.iova, it.mapping.bytes));
        let completion = engine.unmap_all(platform, space.domain, ranges, when);
        let completion = completion.map_err(to_client)?;
        let is_done = completion.is_none() || engine.progress(&completion) == Progress::Done;
        let holder = sessions.sessions.get_mut(&space.session).ok_or(Error::SessionEnded)?;
        let at = platform.now();
        for Known { buffer: id, iova, mapping, .. } in known {
            let Some(buffer) = sessions.buffers.get_mut(id) else { continue };
            let place = (space.domain, *iova);
            holder.history.add(Past::new(place, mapping, (id.0, &buffer.label), at));
            buffer.mappings.remove(&place);
            // The address may be another's next.
            let in_own = holder.domain == space.domain;
            buffer.first = buffer.first.filter(|(first, _)| !in_own || first != iova);
            if !is_done {
                // Its memory must outlast what units may still hold of this mapping.
                engine.forget_confirmed(&mut buffer.unmapped);
                buffer.unmapped.join(&completion);
            }
        }
        accounts.unmapped(known.iter().map(|it| &it.noted));
        Ok(completion)
    }

    /// The buffer of this session's of which exactly this range is a mapping. In a domain that several sessions
    /// share, there are others (rule R3).
    #[inline]
    fn mapped_at(&self, space: Space, iova: Iova, bytes: u64) -> Option<Known> {
        let domain = self.engine.domain(space.domain)?;
        let mapping = domain.mapping(iova).filter(|mapping| mapping.bytes == bytes)?;
        let id = BufferId(mapping.owner.buffer()?);
        let buffer = self.sessions.buffers.get(&id)?;
        let noted = *buffer.mappings.get(&(space.domain, iova))?;
        let is_own = buffer.session == Some(space.session)
            && self.knows(space, buffer.account)
            && self.knows(space, noted.account);
        is_own.then_some(Known { buffer: id, iova, mapping, noted })
    }

    /// Whether what is on an account is known in a space.
    fn knows(&self, space: Space, account: AccountId) -> bool {
        space.within.is_none_or(|within| self.accounts.is_within(account, within))
    }

    /// A buffer by its number, if it is this session's.
    fn own_buffer(&self, space: Space, number: u64) -> Option<BufferId> {
        let id = BufferId(number);
        let buffer = self.sessions.buffers.get(&id)?;
        let is_own = buffer.session == Some(space.session) && self.knows(space, buffer.account);
        is_own.then_some(id)
    }

    /// Answers what of this session's is mapped at an address: Linux's `iommu_iova_to_phys`, but with a buffer for
    /// the answer and no physical address (rule R3).
    pub(crate) fn lookup(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Result<Answered, Error> {
        let space = self.asker(handle, Rights::INSPECT)?.space;
        let (request, _) = Lookup::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let iova = Iova::new(request.iova.get());
        let domain = self.engine.domain(space.domain).ok_or(Error::SessionEnded)?;
        let found = domain.lookup(iova).and_then(|(start, mapping)| {
            let buffer = self.own_buffer(space, mapping.owner.buffer()?)?;
            Some((start, mapping, buffer))
        });
        let mut told = Found::new_zeroed();
        if let Some((start, mapping, buffer)) = found {
            told = Found {
                start: U64::new(start.get()),
                bytes: U64::new(mapping.bytes),
                buffer: U64::new(buffer.0),
                offset: U64::new(mapping.offset + (iova.get() - start.get())),
                access: U32::new(access_code(mapping.access)),
                reserved: U32::ZERO,
            };
        }
        answer(payload, &told)
    }

    /// Answers what of a buffer of this session's is mapped at an address or behind it.
    pub(crate) fn next(&mut self, handle: HandleId, payload: &mut [u8]) -> Result<Answered, Error> {
        let space = self.asker(handle, Rights::INSPECT)?.space;
        let (request, _) = Next::read_from_prefix(payload).map_err(|_| Error::ShortPayload)?;
        let id = self.own_buffer(space, request.buffer.get()).ok_or(Error::WrongOwner)?;
        let buffer = self.sessions.buffers.get(&id).ok_or(Error::WrongOwner)?;
        let from = (space.domain, Iova::new(request.iova.get()));
        let found = buffer.mappings.at_or_behind(from);
        let domain = self.engine.domain(space.domain).ok_or(Error::SessionEnded)?;
        let found = found.filter(|(key, _)| *key == space.domain);
        let found = found.and_then(|(_, iova)| Some((iova, domain.mapping(iova)?)));
        let mut told = Found::new_zeroed();
        if let Some((start, mapping)) = found {
            told = Found {
                start: U64::new(start.get()),
                bytes: U64::new(mapping.bytes),
                buffer: U64::new(id.0),
                offset: U64::new(mapping.offset),
                access: U32::new(access_code(mapping.access)),
                reserved: U32::ZERO,
            };
        }
        answer(payload, &told)
    }
}

/// Waits for what is to be confirmed of one of many, of most of which nothing is.
#[inline]
fn join(all: &mut Completion, one: &Completion) {
    if !one.is_none() {
        all.join(one);
    }
}

/// What mappings of these entries hold, but for their addresses and tables.
fn usage_of(entries: &[MapEntry]) -> Usage {
    let bytes = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.bytes.get()));
    Usage::mappings(entries.len() as u64, bytes)
}

/// The first of these mappings that was named before.
fn named_twice(known: &[Known]) -> Option<usize> {
    let before = |index: usize| known.iter().take(index).map(|it| it.iova);
    (0..known.len()).find(|&index| before(index).any(|iova| iova == known[index].iova))
}

/// Where what was mapped for these entries is.
fn ranges_of(entries: &[MapEntry]) -> Vec<(Iova, u64)> {
    entries.iter().map(|entry| (Iova::new(entry.iova.get()), entry.bytes.get())).collect()
}
