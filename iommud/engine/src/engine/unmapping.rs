//! Memory out of domains.

use alloc::vec::Vec;

use dma_types::Iova;

use super::Engine;
use super::deferred::line_of;
use super::units::unit_mut;
use crate::completion::{Completion, Ticket};
use crate::domain::{Domain, DomainKey, Mapping};
use crate::error::EngineError;
use crate::machine::UnitSlot;
use crate::payer::{self, Payer};
use crate::platform::Platform;
use crate::policy::Invalidation;
use crate::retired::Retired;
use crate::unit::{Changed, DomainId, Touched, Unit, merge};

/// What is out of a domain's table.
pub(super) struct Gone<'a> {
    pub(super) key: DomainKey,
    /// The mappings that were there,
    pub(super) ranges: &'a [(Iova, u64)],
    /// on whose account each of them was,
    pub(super) payers: &'a [Payer],
    /// and what has changed with them.
    pub(super) changes: &'a [Changed],
    /// When the client is to be answered.
    pub(super) when: Invalidation,
}

impl Engine {
    /// Takes a mapping away. After the completion no device reaches it; its addresses and tables are kept
    /// out of use until then, and its memory is for the caller to keep (see [`Self::free_run_after`]).
    pub fn unmap(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        iova: Iova,
        bytes: u64,
    ) -> Result<Completion, EngineError> {
        self.unmap_if(platform, key, iova, bytes, Invalidation::Deferred, |_| true)
    }

    /// The same of a mapping of which `is_its` is true. In a domain whose unmaps are gathered units are told later, unless
    /// `when` is strict.
    ///
    /// # Errors
    ///
    /// [`EngineError::NotMapped`] if it is not exactly such a mapping.
    #[inline]
    pub fn unmap_if(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        iova: Iova,
        bytes: u64,
        when: Invalidation,
        mut is_its: impl FnMut(&Mapping) -> bool,
    ) -> Result<Completion, EngineError> {
        match self.unmap_at_hand(platform, key, (iova, bytes), when, &mut is_its) {
            Some(None) => Ok(Completion::none()),
            Some(Some(asked)) => Ok(self.wait_for(platform, key, (iova, bytes), when, asked)),
            None => self.unmap_anyhow(platform, key, (iova, bytes), when, is_its),
        }
    }

    /// Takes a mapping away whatever it takes.
    #[inline(never)]
    fn unmap_anyhow(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        (iova, bytes): (Iova, u64),
        when: Invalidation,
        is_its: impl FnMut(&Mapping) -> bool,
    ) -> Result<Completion, EngineError> {
        let Self { domains, unlinked, .. } = self;
        let domain = domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        match domain.unmap(platform, iova, bytes, is_its, unlinked) {
            Ok((change, payer)) => {
                let (ranges, payers, changes) = (&[(iova, bytes)], &[payer], &[change]);
                Ok(self.forget(platform, Gone { key, ranges, payers, changes, when }, None))
            }
            Err(error) => {
                self.forget_unlinked(platform, key, (iova, bytes));
                Err(error)
            }
        }
    }

    /// Takes several mappings of one domain away, all or none (rule R7): each unit is asked once to forget them. In a domain
    /// whose unmaps are gathered that is later, unless `when` is strict.
    ///
    /// # Errors
    ///
    /// [`EngineError::NotMapped`] if one of them is not exactly a mapping, or is named twice.
    pub fn unmap_all(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        ranges: impl IntoIterator<Item = (Iova, u64), IntoIter: Clone>,
        when: Invalidation,
    ) -> Result<Completion, EngineError> {
        self.unmap_all_if(platform, key, ranges, when, |_, _| true)
    }

    /// The same of mappings of which `is_its` is true, each of which is asked for once, before anything is changed.
    ///
    /// # Errors
    ///
    /// As [`unmap_all`](Self::unmap_all).
    pub fn unmap_all_if(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        ranges: impl IntoIterator<Item = (Iova, u64), IntoIter: Clone>,
        when: Invalidation,
        mut is_its: impl FnMut(Iova, &Mapping) -> bool,
    ) -> Result<Completion, EngineError> {
        let ranges = ranges.into_iter();
        if let Some(unmapped) = self.unmap_chain(platform, key, ranges.clone(), when, &mut is_its) {
            return unmapped;
        }
        let mut sorted = core::mem::take(&mut self.ranges);
        sorted.clear();
        sorted.extend(ranges);
        sorted.sort_unstable();
        self.break_chains(key, &sorted);
        let completion = self.unmap_sorted(platform, key, &sorted, when, is_its);
        self.ranges = sorted;
        completion
    }

    fn unmap_sorted(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        ranges: &[(Iova, u64)],
        when: Invalidation,
        mut is_its: impl FnMut(Iova, &Mapping) -> bool,
    ) -> Result<Completion, EngineError> {
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let Self { changes, payers, unlinked, .. } = self;
        changes.clear();
        payers.clear();
        let mut last = None;
        for &(iova, bytes) in ranges {
            let its = |mapping: &Mapping| is_its(iova, mapping);
            let payer = domain.payer_of(iova, bytes, its).filter(|_| last != Some(iova));
            payers.push(payer.ok_or(EngineError::NotMapped)?);
            last = Some(iova);
        }
        let mut result = Ok(());
        let mut done = 0;
        for run in ranges.chunk_by(|(iova, bytes), (next, _)| iova.get() + bytes == next.get()) {
            let before = unlinked.len();
            match domain.unmap_run(platform, run, unlinked) {
                Ok(change) => changes.push(change),
                Err(error) => {
                    // Its tables are broken. What is out of them is to be forgotten all the same.
                    let (start, bytes) = run[0];
                    let change = Changed { start, bytes, touched: Touched::Tables };
                    changes.extend((unlinked.len() > before).then_some(change));
                    result = Err(error);
                    break;
                }
            }
            done += run.len();
        }
        if changes.is_empty() {
            return result.map(|()| Completion::none());
        }
        let payers = core::mem::take(payers);
        let mut changes = core::mem::take(changes);
        merge(&mut changes);
        let unmapped =
            Gone { key, ranges: &ranges[..done], payers: &payers, changes: &changes, when };
        let completion = self.forget(platform, unmapped, None);
        (self.payers, self.changes) = (payers, changes);
        result.map(|()| completion)
    }

    /// Whether unmaps in a domain are answered before units have confirmed them, if the client asks for no more.
    pub fn answers_at_once(&self, key: DomainKey, when: Invalidation) -> bool {
        let domain = self.domains.get(&key).map(Domain::invalidation);
        (domain, when) == (Some(Invalidation::Deferred), Invalidation::Deferred)
    }

    /// Has the units forget what is out of a domain's table, unless they were `asked` to already, and frees its addresses, and
    /// the frames that were unlinked, when they have: at once, if they do so at once.
    #[inline(never)]
    pub(super) fn forget(
        &mut self,
        platform: &mut impl Platform,
        gone: Gone<'_>,
        asked: Option<Completion>,
    ) -> Completion {
        let Gone { key, ranges, payers, changes, when } = gone;
        let busy = asked.is_none() && self.is_busy(key);
        let Self { domains, units, books, deferred, unlinked, .. } = self;
        let Some(domain) = domains.get_mut(&key) else { return Completion::none() };
        let later = !is_told_now(domain, when);
        let is_gathered = asked.is_none() && (later || busy);
        let completion = match asked {
            Some(asked) => asked,
            None if is_gathered => {
                deferred.gather(key, platform.now(), ranges.len().max(1), !later)
            }
            None => ask_units(units, platform, domain, changes),
        };
        let frames = match unlinked[..] {
            [] => Vec::new(),
            [..] => domain.with_payers(core::mem::take(unlinked)),
        };
        if completion.is_none() {
            for (&(_, bytes), &payer) in ranges.iter().zip(payers) {
                books.note_addresses(payer, -payer::bytes(bytes));
            }
            domain.free_all_addresses(ranges);
            if !frames.is_empty() {
                self.free(platform, Retired { frames, ..Retired::default() });
            }
        } else {
            if !is_gathered {
                deferred.asked(line_of(domain, key), &completion);
            }
            if changes.iter().any(|change| change.touched == Touched::Tables) {
                domain.tables_unlinked(&completion);
            }
            self.retire_ranges((key, ranges, payers), &completion, frames);
        }
        self.tell_if_due(platform);
        completion
    }

    /// Frees frames that were unlinked before a table proved to be broken where this range was to be taken out of it, when
    /// units have forgotten it.
    #[inline(never)]
    pub(super) fn forget_unlinked(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        (start, bytes): (Iova, u64),
    ) {
        if !self.unlinked.is_empty() {
            let changes = &[Changed { start, bytes, touched: Touched::Tables }];
            let when = Invalidation::Strict;
            let gone = Gone { key, ranges: &[], payers: &[], changes, when };
            self.forget(platform, gone, None);
        }
    }
}

/// Whether units are told at once of what is unmapped in a domain.
#[inline]
pub(super) fn is_told_now(domain: &Domain, when: Invalidation) -> bool {
    domain.invalidation() == Invalidation::Strict || when == Invalidation::Strict
}

/// Asks the units of a domain to forget these changes. What is confirmed at once nobody waits for.
pub(super) fn ask_units(
    units: &mut [UnitSlot],
    platform: &mut impl Platform,
    domain: &Domain,
    changes: &[Changed],
) -> Completion {
    ask_each(units, domain, |unit, id| Some(unit.invalidate(platform, id, changes)))
}

/// Asks each unit of a domain for something.
#[inline]
pub(super) fn ask_each(
    units: &mut [UnitSlot],
    domain: &Domain,
    mut ask: impl FnMut(&mut Unit, DomainId) -> Option<Ticket>,
) -> Completion {
    let mut asked = Completion::none();
    for (unit, id) in domain.memberships() {
        if let Some(hardware) = unit_mut(units, unit)
            && let Some(ticket) = ask(hardware, id)
            && hardware.confirmed() < ticket
        {
            asked.add(unit, ticket);
        }
    }
    asked
}
