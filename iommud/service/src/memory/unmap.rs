//! Buffers unmapped in domains, a batch at a time.

use alloc::vec::Vec;

use dma_types::{Access, Iova};
use iommu_engine::completion::{Completion, Progress};
use iommu_engine::domain::Mapping;
use iommu_engine::platform::Platform;
use iommu_engine::policy::Invalidation;
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::{BATCH_FLAG_STRICT, UnmapEntry};

use crate::account::{AccountId, Accounts, Turned};
use crate::calls::{Answered, Batch, One};
use crate::error::to_client;
use crate::faults::history::Past;
use crate::handles::handle::HandleId;
use crate::memory::mappings::{Asker, Space, join};
use crate::pending::Outcome;
use crate::service::Service;
use crate::sessions::session::{BufferId, Sessions};

/// A mapping of a buffer, as it is looked up once for each request that takes it away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    buffer: BufferId,
    /// Where the buffer is.
    slot: u32,
    iova: Iova,
    bytes: u64,
    offset: u64,
    access: Access,
    account: AccountId,
}

/// When a batch is to be answered, if its client has a choice.
#[inline]
fn when(is_strict: bool) -> Invalidation {
    if is_strict { Invalidation::Strict } else { Invalidation::Deferred }
}

impl<P: Platform> Service<P> {
    /// Unmaps a batch of one entry by a device's handle, as most are. Nothing, with nothing changed, where there is anything to
    /// be said against it.
    #[inline(never)]
    pub(crate) fn unmap_quickly(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Option<Result<Outcome<usize>, Error>> {
        let (entry, is_strict) = One::<UnmapEntry>::parse(payload)?;
        let (when, length) = (when(is_strict), One::<UnmapEntry>::LENGTH);
        let Asker { space, account, .. } = self.device_asker(handle)?;
        if !self.may_unmap(account, 1) {
            return None;
        }
        let (iova, bytes) = (Iova::new(entry.iova.get()), entry.bytes.get());
        let Self { engine, platform, sessions, accounts, .. } = self;
        let mut found = None;
        let unmapped = engine.unmap_if(platform, space.domain, iova, bytes, when, |mapping| {
            found = known_at(sessions, accounts, space, iova, mapping);
            found.is_some()
        });
        // What was not found was left as it is.
        let found = [found?];
        let completion = match unmapped {
            Ok(completion) => completion,
            Err(error) => return Some(Err(to_client(error))),
        };
        let lasts = self.note_unmapped(space, &found, &completion);
        if completion.is_none() && !lasts {
            return Some(Ok(Outcome::Done(length)));
        }
        let completion = self.waits_for(space, &found, when, completion, lasts);
        Some(Ok(self.conclude(handle, Answered::after(length, completion), payload)))
    }

    /// Unmaps every entry of a batch or none (rule R7). It is done when no unit holds any of it (rule R2), but where the
    /// policy has clients answered sooner and this one does not object.
    pub(crate) fn unmap_batch(
        &mut self,
        handle: HandleId,
        payload: &mut [u8],
    ) -> Result<Outcome<usize>, Error> {
        let Asker { space, account, .. } = self.asker(handle, Rights::MAP)?;
        let mut batch: Batch<'_, UnmapEntry> = Batch::parse(payload, BATCH_FLAG_STRICT)?;
        let when = when(batch.flags() & BATCH_FLAG_STRICT != 0);
        self.claim_unmaps(account, batch.entries.len() as u64)?;
        let mut known = core::mem::take(&mut self.known);
        known.clear();
        let unmapped = self.unmap_entries(space, &mut batch, when, &mut known);
        self.known = known;
        let completion = unmapped?;
        let length = batch.length();
        if completion.is_none() {
            return Ok(Outcome::Done(length));
        }
        Ok(self.conclude(handle, Answered::after(length, completion), payload))
    }

    /// Unmaps what entries name, or says in the batch which is none.
    #[inline(never)]
    fn unmap_entries(
        &mut self,
        space: Space,
        batch: &mut Batch<'_, UnmapEntry>,
        when: Invalidation,
        known: &mut Vec<Known>,
    ) -> Result<Completion, Error> {
        let range = |entry: &UnmapEntry| (Iova::new(entry.iova.get()), entry.bytes.get());
        match self.unmap_known(space, batch.entries.iter().map(range), when, known) {
            Ok((completion, false)) if completion.is_none() => Ok(completion),
            Ok((completion, lasts)) => Ok(self.waits_for(space, known, when, completion, lasts)),
            Err(Error::NotMapped) => {
                let wrong = self.first_wrong(space, batch.entries.iter().map(range));
                batch.refuse(wrong.ok_or(Error::NotMapped)?, Error::NotMapped);
                Ok(Completion::none())
            }
            Err(error) => Err(error),
        }
    }

    /// The first of these ranges that is no mapping of this session's, or was named before.
    #[cold]
    fn first_wrong(
        &self,
        space: Space,
        ranges: impl Iterator<Item = (Iova, u64)> + Clone,
    ) -> Option<usize> {
        let is_mapped = |(iova, bytes)| {
            let mapping = self.engine.domain(space.domain)?.mapping(iova)?;
            let is_it = mapping.bytes == bytes;
            known_at(&self.sessions, &self.accounts, space, iova, &mapping).filter(|_| is_it)
        };
        let before = |index| ranges.clone().take(index);
        let is_wrong = |(index, range): (usize, (Iova, u64))| {
            is_mapped(range).is_none() || before(index).any(|(iova, _)| iova == range.0)
        };
        ranges.clone().enumerate().position(is_wrong)
    }

    /// What a client is to wait for that has named these mappings, which units forget when `completion` is done, and who
    /// may hold something of memory that was mapped strictly if that lasts.
    #[inline(never)]
    fn waits_for(
        &mut self,
        space: Space,
        known: &[Known],
        when: Invalidation,
        completion: Completion,
        lasts: bool,
    ) -> Completion {
        let at_once = self.engine.answers_at_once(space.domain, when);
        let mut awaited = if at_once { Completion::none() } else { completion };
        if lasts && when == Invalidation::Strict {
            join(&mut awaited, &self.all_lasting(known));
        }
        awaited
    }

    /// What units have yet to confirm of the memory of what was mapped strictly. Who did not await the answer to the map would
    /// else be told that nothing is reached while what was mapped before is.
    #[inline(never)]
    fn all_lasting(&mut self, known: &[Known]) -> Completion {
        let mut all = Completion::none();
        for Known { buffer, .. } in known {
            if self.sessions.buffers.get(buffer).is_some_and(|it| it.is_noted_strict) {
                join(&mut all, &self.lasting(*buffer));
            }
        }
        all
    }

    /// Unmaps what is mapped there, all of it or nothing: by batches that are gathered, if this and the policy allow it.
    pub(crate) fn unmap_ranges(
        &mut self,
        space: Space,
        ranges: &[(Iova, u64)],
        when: Invalidation,
    ) -> Result<Completion, Error> {
        let mut known = Vec::new();
        let (completion, _) = self.unmap_known(space, ranges.iter().copied(), when, &mut known)?;
        Ok(completion)
    }

    /// The same, and which mappings these were; and whether units may hold anything of memory that was mapped strictly.
    #[inline]
    fn unmap_known(
        &mut self,
        space: Space,
        ranges: impl Iterator<Item = (Iova, u64)> + Clone,
        when: Invalidation,
        known: &mut Vec<Known>,
    ) -> Result<(Completion, bool), Error> {
        let Self { engine, platform, sessions, accounts, .. } = self;
        let completion =
            engine.unmap_all_if(platform, space.domain, ranges, when, |iova, mapping| {
                let Some(found) = known_at(sessions, accounts, space, iova, mapping) else {
                    return false;
                };
                known.push(found);
                true
            });
        let completion = completion.map_err(to_client)?;
        let lasts = self.note_unmapped(space, known, &completion);
        Ok((completion, lasts))
    }

    /// Takes note that these mappings are there no more, which units forget when `completion` is done: whether they may hold
    /// anything of the memory of one that was mapped strictly.
    #[inline(always)]
    fn note_unmapped(&mut self, space: Space, known: &[Known], completion: &Completion) -> bool {
        let Self { engine, platform, sessions, accounts, runs, .. } = self;
        let Space { session, domain, .. } = space;
        let at = platform.now();
        let is_held = !completion.is_none() && engine.progress(completion) != Progress::Done;
        let mut holder = sessions.sessions.get_mut(&session);
        // Of most, all are on one account.
        let mut back = (known.first().map_or(AccountId::NOBODY, |it| it.account), Turned::NONE);
        let mut lasts = false;
        for &Known { buffer: id, slot, iova, bytes, offset, access, account } in known {
            let Some(buffer) = sessions.buffers.in_slot_mut(slot) else { continue };
            buffer.mappings.remove(&(domain, iova));
            if account != back.0 {
                accounts.give_back(back.0, &back.1);
                back = (account, Turned::NONE);
            }
            back.1.mappings += 1;
            back.1.bytes += bytes;
            if let Some(holder) = &mut holder {
                let (buffer_id, label) = (id.0, buffer.label);
                let past =
                    Past { domain, iova, bytes, buffer: buffer_id, offset, access, label, at };
                holder.history.add(past);
                if buffer.first.is_some_and(|(first, _)| first == iova && holder.domain == domain) {
                    // The address may be another's next.
                    buffer.first = None;
                }
            }
            if is_held {
                // Its memory must outlast what units may still hold of this mapping.
                engine.forget_confirmed(&mut buffer.unmapped);
                buffer.unmapped.join(completion);
            }
            let is_quiet =
                || buffer.unmapped.is_none() && runs.standing(buffer.run) == (true, true);
            lasts |= buffer.is_noted_strict && !is_quiet();
        }
        accounts.give_back(back.0, &back.1);
        lasts
    }
}

/// A mapping that is there, if it is of a buffer of this session's. In a domain that several sessions share, there are
/// others (rule R3).
#[inline]
fn known_at(
    sessions: &Sessions,
    accounts: &Accounts,
    space: Space,
    iova: Iova,
    mapping: &Mapping,
) -> Option<Known> {
    let Mapping { bytes, access, owner, offset, payer } = *mapping;
    let (id, account) = (BufferId(owner.buffer()?), payer.into());
    let (slot, buffer) = sessions.buffers.find(&id)?;
    let is_own = buffer.session == Some(space.session)
        && space.knows(accounts, buffer.account)
        && space.knows(accounts, account);
    is_own.then_some(Known { buffer: id, slot, iova, bytes, offset, access, account })
}
