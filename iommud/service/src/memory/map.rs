//! Buffers mapped in domains, a batch at a time.

use alloc::vec::Vec;

use dma_types::{Access, Iova, PAGE_SIZE};
use iommu_engine::completion::Completion;
use iommu_engine::domain::Place;
use iommu_engine::engine::MapSpec;
use iommu_engine::engine::chain::{ChainPiece, NotMapped};
use iommu_engine::payer::Purse;
use iommu_engine::platform::{Platform, RunId};
use iommu_engine::policy::Invalidation;
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::{
    BATCH_FLAG_STRICT, MAP_FLAG_AT, MAP_FLAG_BEHIND, MapEntry, access_from_code,
};
use zerocopy::little_endian::U64;

use crate::account::Turned;
use crate::calls::{Answered, Batch, One};
use crate::error::to_client;
use crate::handles::handle::HandleId;
use crate::handles::tree::DoneBy;
use crate::memory::buffers::check_size;
use crate::memory::mappings::{Asker, Space, join};
use crate::memory::runs::Runs;
use crate::numbered::Numbered;
use crate::pending::{Outcome, Undo};
use crate::service::{ONE_REQUEST, Service};
use crate::sessions::session::{Buffer, BufferId};

/// A part of a buffer that may be mapped.
struct Part {
    piece: ChainPiece,
    /// Whether the buffer's record says something else of how strictly it is mapped.
    is_noted_otherwise: bool,
    /// Whether nothing of its memory that units may hold still is to be waited for.
    is_fresh: bool,
}

impl<P: Platform> Service<P> {
    /// Maps a batch of one entry as most are: [plain](Self::map_plain), by a device's handle, and paid for by what its account
    /// keeps. Nothing, with nothing changed, for any other.
    #[inline(never)]
    pub(crate) fn map_quickly(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Option<Outcome<usize>> {
        let (entry, is_strict) = One::<MapEntry>::parse(payload)?;
        let length = One::<MapEntry>::LENGTH;
        let asker = self.device_asker(handle)?;
        let bytes = entry.bytes.get();
        if entry.flags.get() != 0 || check_size(bytes).is_err() || !self.quarantines.is_empty() {
            return None;
        }
        let usage = Turned::mappings(1, bytes);
        let purse = self.charge_kept(asker.account, &usage)?;
        let Some(completion) = self.map_plain(&asker, entry, is_strict, purse) else {
            self.accounts.give_back(asker.account, &usage);
            return None;
        };
        if completion.is_none() {
            return Some(Outcome::Done(length));
        }
        let undo = Undo::from([(asker.space, ranges_of(core::slice::from_ref(entry)))]);
        let answered = Answered { undo, ..Answered::after(length, completion) };
        Some(self.conclude(handle, answered, payload))
    }

    /// Maps every entry of a batch or none (rule R7), strictly if it says so.
    pub(crate) fn map_batch(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Result<Outcome<usize>, Error> {
        let asker = self.asker(handle, Rights::MAP)?;
        if asker.is_device {
            self.check_released(asker.space.session)?;
        }
        let mut batch: Batch<'_, MapEntry> = Batch::parse(payload, BATCH_FLAG_STRICT)?;
        let is_strict = batch.flags() & BATCH_FLAG_STRICT != 0;
        // All limits at one go. Where the batch is not within them, it is to be said which entry is not.
        let mut charged = match turned_by(batch.entries) {
            Ok(usage) => self.charge_mappings(asker.account, &usage),
            Err(_) => None,
        };
        if charged.is_none() {
            self.claim(asker.account, &ONE_REQUEST)?;
        }
        let mut all = Completion::none();
        let mut first = 0;
        while let Some((entry, rest)) = batch.entries[first..].split_first_mut() {
            let is_chain = entry.flags.get() != 0
                || rest.first().is_some_and(|next| next.flags.get() & MAP_FLAG_BEHIND != 0);
            if let Some(purse) = &mut charged
                && self.engine.owes(purse.payer).is_none()
            {
                // The entry before has taken tables.
                *purse = self.purse_of(asker.account);
            }
            if !is_chain
                && let Some(purse) = charged
                && let Some(completion) = self.map_plain(&asker, entry, is_strict, purse)
            {
                join(&mut all, &completion);
                first += 1;
                continue;
            }
            let mapped = match is_chain {
                false => self.map_one(&asker, entry, is_strict, charged.is_some()),
                true => {
                    let entries = &mut batch.entries[first..];
                    self.map_chain(&asker, entries, is_strict, charged)
                }
            };
            match mapped {
                Ok((length, completion)) => {
                    join(&mut all, &completion);
                    first += length;
                }
                Err((index, error)) => {
                    if charged.is_some()
                        && let Ok(rest) = turned_by(&batch.entries[first..])
                    {
                        self.accounts.give_back(asker.account, &rest);
                    }
                    self.take_back(asker.space, &mut batch.entries[..first]);
                    return Ok(Outcome::Done(batch.refuse(first + index, error)));
                }
            }
        }
        if all.is_none() {
            return Ok(Outcome::Done(batch.length()));
        }
        let undo = Undo::from([(asker.space, ranges_of(batch.entries))]);
        let answered = Answered { undo, ..Answered::after(batch.length(), all) };
        Ok(self.conclude(handle, answered, payload))
    }

    /// Takes back what was just mapped for these entries. Nobody has been told of it, but hardware may have seen it: its
    /// addresses stay out of use until that is over.
    #[inline(never)]
    fn take_back(&mut self, space: Space, made: &mut [MapEntry]) {
        let _ = self.unmap_ranges(space, &ranges_of(made), Invalidation::Deferred);
        made.iter_mut().for_each(|done| done.iova = U64::ZERO);
    }

    /// Maps one entry of a [plain part](plain_part) wherever there is room, which has been charged, by the few steps that such a
    /// one takes. Nothing, with nothing changed, where there is anything else to be done, or to be said against it.
    #[inline(always)]
    fn map_plain(
        &mut self,
        asker: &Asker,
        entry: &mut MapEntry,
        is_strict: bool,
        purse: Purse,
    ) -> Option<Completion> {
        let Self { engine, platform, sessions, runs, .. } = self;
        let domain = asker.space.domain;
        let (buffer, access) = plain_part(&mut sessions.buffers, runs, asker, entry, is_strict)?;
        let spec = spec_of(asker, entry, buffer.run, access);
        let mapped = engine.on_account(purse, |engine| engine.map(platform, domain, &spec));
        let (iova, completion) = mapped.ok()?;
        buffer.mappings.insert((domain, iova), DoneBy::itself(asker.by));
        entry.iova = U64::new(iova.get());
        Some(completion)
    }

    /// Maps one entry wherever there is room, which has been charged or is to be. If not, it is because of that.
    #[inline(never)]
    fn map_one(
        &mut self,
        asker: &Asker,
        entry: &mut MapEntry,
        is_strict: bool,
        is_charged: bool,
    ) -> Result<(usize, Completion), (usize, Error)> {
        let refused = |error| (0, error);
        let part = self.part_of(asker, entry, 0, is_strict).map_err(refused)?;
        let piece = part.piece;
        let (account, domain) = (asker.account, asker.space.domain);
        let usage = Turned::mappings(1, piece.bytes);
        if !is_charged {
            self.claim(account, &usage.with_addresses().usage()).map_err(refused)?;
        }
        if part.is_noted_otherwise {
            self.note_strict(BufferId(piece.owner), is_strict);
        }
        let spec = spec_of(asker, entry, piece.run, piece.access);
        let mapped = self.on_account(account, |engine, platform| {
            let mapped = engine.map(platform, domain, &spec).or_else(|error| {
                match to_client(error) {
                    // Where there is no room at such a multiple, or without an IOMMU the memory lies elsewhere, any page
                    // will do.
                    Error::NoAddressSpace | Error::NotContiguous => {
                        engine.map(platform, domain, &MapSpec { align: PAGE_SIZE, ..spec })
                    }
                    _ => Err(error),
                }
            });
            mapped.map_err(NotMapped::from)
        });
        let (iova, mut completion) = mapped.map_err(|failed| self.not_mapped(&[piece], failed))?;
        self.note_mapped(asker, piece.owner, iova);
        if !is_charged {
            self.accounts.take(account, &usage);
        }
        if is_strict && !part.is_fresh {
            completion.join(&self.lasting(BufferId(piece.owner)));
        }
        entry.iova = U64::new(iova.get());
        Ok((1, completion))
    }

    /// Maps the first of these entries and those of which each lies behind the one before, which have been charged or are to
    /// be: how many they are. If not, which it is because of.
    #[inline(never)]
    fn map_chain(
        &mut self,
        asker: &Asker,
        entries: &mut [MapEntry],
        is_strict: bool,
        charged: Option<Purse>,
    ) -> Result<(usize, Completion), (usize, Error)> {
        let behind = entries[1..].iter();
        let behind = behind.take_while(|entry| entry.flags.get() & MAP_FLAG_BEHIND != 0);
        let length = 1 + behind.count();
        let entries = &mut entries[..length];
        let mut pieces = core::mem::take(&mut self.pieces);
        pieces.clear();
        let Self { sessions, runs, .. } = self;
        // Of those that are charged it is known that they are as long as mappings may be.
        let are_plain = charged.is_some()
            && plain_parts(&mut sessions.buffers, runs, asker, entries, is_strict, &mut pieces);
        let found = match are_plain {
            true => Ok(()),
            false => self.pieces_of(asker, entries, is_strict, &mut pieces),
        };
        let mapped = found.and_then(|()| {
            let noted = (!are_plain).then_some(is_strict);
            self.map_pieces(asker, entries, &pieces, noted, charged)
        });
        self.pieces = pieces;
        let (iova, mut completion) = mapped?;
        let mut address = iova.get();
        for entry in &mut *entries {
            self.note_mapped(asker, entry.buffer.get(), Iova::new(address));
            entry.iova = U64::new(address);
            address += entry.bytes.get();
        }
        if is_strict && !are_plain {
            for entry in entries {
                join(&mut completion, &self.lasting(BufferId(entry.buffer.get())));
            }
        }
        Ok((length, completion))
    }

    /// The parts of buffers that entries name, if all may be mapped.
    fn pieces_of(
        &mut self,
        asker: &Asker,
        entries: &[MapEntry],
        is_strict: bool,
        pieces: &mut Vec<ChainPiece>,
    ) -> Result<(), (usize, Error)> {
        pieces.clear();
        for (index, entry) in entries.iter().enumerate() {
            let allowed = if index == 0 { MAP_FLAG_AT } else { MAP_FLAG_BEHIND };
            let part = self.part_of(asker, entry, allowed, is_strict);
            let piece = part.map_err(|error| (index, error))?.piece;
            if is_strict && pieces.iter().any(|other| other.run == piece.run) {
                return Err((index, Error::MappedElsewhere));
            }
            pieces.push(piece);
        }
        Ok(())
    }

    /// Maps the parts of buffers that entries name, one behind the other. First it is noted how strictly, if that is to be.
    fn map_pieces(
        &mut self,
        asker: &Asker,
        entries: &[MapEntry],
        pieces: &[ChainPiece],
        noted: Option<bool>,
        charged: Option<Purse>,
    ) -> Result<(Iova, Completion), (usize, Error)> {
        let Asker { space, account, bounds, .. } = *asker;
        let limit = entries.iter().map(|entry| entry.limit.get()).min().unwrap_or(u64::MAX);
        let (first, limit) = (bounds.first, bounds.last.min(Iova::new(limit)));
        let usage = || turned_by(entries).map_err(|error| (0, error));
        if charged.is_none() {
            self.claim(account, &usage()?.with_addresses().usage()).map_err(|error| (0, error))?;
        }
        let flags = entries.first().map_or(0, |entry| entry.flags.get());
        let start = Iova::new(entries.first().map_or(0, |entry| entry.iova.get()));
        let place = match flags & MAP_FLAG_AT {
            0 => Place::Anywhere { align: PAGE_SIZE, first, limit },
            _ => Place::At { iova: start, limit },
        };
        if let Place::At { .. } = place
            && bounds.account.is_some()
            && !bounds.contain(start, usage()?.bytes)
        {
            return Err((0, Error::OutsideAperture));
        }
        if let Some(is_strict) = noted {
            pieces.iter().for_each(|piece| self.note_strict(BufferId(piece.owner), is_strict));
        }
        let purse = charged.unwrap_or_else(|| self.purse_of(account));
        let mapped = self.on_account_from(account, purse, |engine, platform| {
            engine.map_chain(platform, space.domain, place, pieces)
        });
        let mapped = mapped.map_err(|failed| self.not_mapped(pieces, failed))?;
        if charged.is_none() {
            self.accounts.take(account, &usage()?);
        }
        Ok(mapped)
    }

    /// Why pieces were not mapped.
    #[inline(never)]
    fn not_mapped(&mut self, pieces: &[ChainPiece], failed: NotMapped) -> (usize, Error) {
        for piece in pieces {
            // Its memory must outlast what units may hold of the attempt.
            if let Some(buffer) = self.sessions.buffers.get_mut(&BufferId(piece.owner)) {
                buffer.unmapped.join(&failed.lasting);
            }
        }
        (0, to_client(failed.error))
    }

    /// Notes where a part of a buffer is mapped.
    #[inline]
    fn note_mapped(&mut self, asker: &Asker, buffer: u64, iova: Iova) {
        if let Some(buffer) = self.sessions.buffers.get_mut(&BufferId(buffer)) {
            buffer.mappings.insert((asker.space.domain, iova), DoneBy::itself(asker.by));
        }
    }

    /// The part of a buffer that an entry names, if it is one that the session may have mapped so.
    fn part_of(
        &self,
        asker: &Asker,
        entry: &MapEntry,
        allowed: u32,
        is_strict: bool,
    ) -> Result<Part, Error> {
        let (space, bounds) = (asker.space, &asker.bounds);
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
        if buffer.session != Some(space.session) || !space.knows(&self.accounts, buffer.account) {
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
        let (is_alone, is_gone) = self.runs.standing(buffer.run);
        self.check_only(buffer, is_alone, is_strict)?;
        Ok(Part {
            piece: ChainPiece { run: buffer.run, offset, bytes, access, owner: id.0 },
            is_noted_otherwise: buffer.is_noted_strict != is_strict,
            is_fresh: is_alone && is_gone && buffer.unmapped.is_none(),
        })
    }
}

/// The buffer of which an entry names a part, and how it is to be mapped, if it is as most are: all that is to be said of it is
/// said by a few looks. No unit may hold anything of before of its memory, which is in no other buffer and has been in none, and
/// of which nothing else is mapped, or nothing is strict. How long the part is has been looked at.
#[inline(always)]
fn plain_part<'a>(
    buffers: &'a mut Numbered<BufferId, Buffer>,
    runs: &Runs,
    asker: &Asker,
    entry: &MapEntry,
    is_strict: bool,
) -> Option<(&'a mut Buffer, Access)> {
    let (space, bounds) = (asker.space, &asker.bounds);
    let buffer = buffers.get_mut(&BufferId(entry.buffer.get()))?;
    let (offset, bytes) = (entry.offset.get(), entry.bytes.get());
    let access = access_from_code(entry.access.get()).ok()?;
    let is_plain = buffer.session == Some(space.session)
        && space.within.is_none_or(|within| within == buffer.account)
        && !buffer.is_revoked()
        && offset.is_multiple_of(PAGE_SIZE)
        && offset <= buffer.bytes
        && bytes <= buffer.bytes - offset
        && buffer.allows(access)
        && access.is_within(bounds.access)
        && (!is_strict || buffer.mappings.is_empty())
        && buffer.unmapped.is_none()
        && buffer.is_noted_strict == is_strict
        && runs.standing(buffer.run) == (true, true);
    is_plain.then_some((buffer, access))
}

/// The parts of buffers that the entries of a chain name, if all are [plain](plain_part), and each lies where those of chains do. A
/// strict one is to be the only one of its memory, of which there are no two if their numbers ascend.
fn plain_parts(
    buffers: &mut Numbered<BufferId, Buffer>,
    runs: &Runs,
    asker: &Asker,
    entries: &[MapEntry],
    is_strict: bool,
    pieces: &mut Vec<ChainPiece>,
) -> bool {
    let (mut allowed, mut last) = (MAP_FLAG_AT, 0);
    for entry in entries {
        let owner = entry.buffer.get();
        if entry.flags.get() & !allowed != 0 || is_strict && owner <= last {
            return false;
        }
        let plain = plain_part(buffers, runs, asker, entry, is_strict);
        let Some((buffer, access)) = plain else { return false };
        let (run, offset, bytes) = (buffer.run, entry.offset.get(), entry.bytes.get());
        pieces.push(ChainPiece { run, offset, bytes, access, owner });
        (allowed, last) = (MAP_FLAG_BEHIND, owner);
    }
    true
}

/// What the engine is to map for an entry.
#[inline(always)]
fn spec_of(asker: &Asker, entry: &MapEntry, run: RunId, access: Access) -> MapSpec {
    let (offset, bytes, owner) = (entry.offset.get(), entry.bytes.get(), entry.buffer.get());
    let limit = asker.bounds.last.min(Iova::new(entry.limit.get()));
    // At a multiple of its length rounded up to a power of two it crosses no larger one, as a device may
    // want it; Linux's addresses are such.
    let align = bytes.next_power_of_two();
    MapSpec { run, offset, bytes, access, align, first: asker.bounds.first, limit, owner }
}

/// What mappings of these entries turn over, but for their addresses and tables, if all of them are as long as mappings may be.
#[inline]
fn turned_by(entries: &[MapEntry]) -> Result<Turned, Error> {
    let mut bytes = 0u64;
    for entry in entries {
        check_size(entry.bytes.get())?;
        bytes = bytes.saturating_add(entry.bytes.get());
    }
    Ok(Turned::mappings(entries.len() as u64, bytes))
}

/// Where what was mapped for these entries is.
fn ranges_of(entries: &[MapEntry]) -> Vec<(Iova, u64)> {
    entries.iter().map(|entry| (Iova::new(entry.iova.get()), entry.bytes.get())).collect()
}
