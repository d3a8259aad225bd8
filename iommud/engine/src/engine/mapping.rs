//! Memory in and out of domains, and what becomes free when hardware has confirmed.

use alloc::vec::Vec;

use dma_types::{Access, Iova, PhysAddr};

use super::deferred::line_of;
use super::{Engine, has_failed, progress, unit_at, unit_mut};
use crate::completion::{Completion, Progress, Ticket};
use crate::domain::{Domain, DomainKey, Mapping, Owner};
use crate::error::EngineError;
use crate::iova::IovaRequest;
use crate::machine::UnitSlot;
use crate::payer::{self, Payer, Turnover};
use crate::platform::{Platform, RunId};
use crate::policy::Invalidation;
use crate::retired::{Retired, RetiredRun};
use crate::segments;
use crate::table::MapError;
use crate::unit::{Changed, DomainId, Touched, Translation, Unit, merge};

/// A mapping that a client wants.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// The run of memory.
    pub run: RunId,
    /// Where in it the mapping starts, a multiple of 4096.
    pub offset: u64,
    /// How long it is, a multiple of 4096, not zero.
    pub bytes: u64,
    /// What the device may do.
    pub access: Access,
    /// What the I/O address must be a multiple of: a power of two, at least 4096.
    pub align: u64,
    /// The lowest I/O address that the mapping may touch.
    pub first: Iova,
    /// The highest I/O address that the mapping may touch.
    pub limit: Iova,
    /// The client's number for its buffer, for reports.
    pub owner: u64,
}

/// The length of the shortest pages that are entered where a table could be.
const LARGE_PAGE: u64 = 2 << 20;

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
    /// Maps memory in a domain, at a free I/O address. From the completion on at the latest, its devices
    /// reach it.
    pub fn map(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        spec: &MapSpec,
    ) -> Result<(Iova, Completion), EngineError> {
        match self.map_at_hand(platform, key, spec) {
            Some(start) if self.all_see => Ok((start, Completion::none())),
            Some(start) => {
                let range = Changed { start, bytes: spec.bytes, touched: Touched::Leaves };
                Ok((start, self.tell_now(platform, key, range)))
            }
            None => self.map_anywhere(platform, key, spec),
        }
    }

    /// Maps memory whatever it takes.
    #[inline(never)]
    fn map_anywhere(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        spec: &MapSpec,
    ) -> Result<(Iova, Completion), EngineError> {
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        check_units(&self.units, domain, self.is_taking_over)?;
        let MapSpec { run, offset, bytes, access, align, first, limit, owner } = *spec;
        self.pieces.clear();
        let Self { near, pieces, .. } = self;
        let cut = segments::cut_near((run, platform.segments(run)), (offset, bytes), near, pieces);
        cut.ok_or(EngineError::OutOfRun)?;
        let request = IovaRequest { bytes, align, first, limit };
        let payer = self.books.purse.payer;
        let mapping = Mapping { bytes, access, owner: Owner::Buffer(owner), offset, payer };
        let root = domain.root();
        let mut frames = self.books.meter(platform, 0);
        let mapped = domain.map(&mut frames, &self.pieces, request, mapping);
        let bill = frames.bill;
        if let Err(EngineError::Map(MapError::EmptyTable)) = mapped {
            return self.map_where_a_table_was(platform, key, spec);
        }
        if let Ok((iova, Touched::Leaves)) = mapped
            && self.is_plain
            && self.all_see
            && domain.catching_up().is_none()
        {
            self.books.note_addresses(payer, payer::bytes(bytes));
            return Ok((iova, Completion::none()));
        }
        let mapped = self.books.paid(domain, bill, bytes, mapped);
        self.follow_arenas(platform);
        let (start, touched) = mapped?;
        // Of the memory, and of the tables that it may have taken.
        let kept = self.keeping.completion(&self.pieces, touched == Touched::Tables);
        let range = Changed { start, bytes, touched };
        Ok((start, self.mapped(platform, key, root, range, kept)?))
    }

    /// Lets the units see what was mapped in a domain, whose table had this root before: from the completion on at
    /// the latest, and not before that of `kept`.
    pub(super) fn mapped(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        root: PhysAddr,
        range: Changed,
        kept: Completion,
    ) -> Result<Completion, EngineError> {
        let mut completion = kept;
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        if progress(&self.units, &self.deferred, domain.catching_up()) == Progress::Done {
            domain.caught_up();
        }
        completion.join(domain.catching_up());
        completion.join(&self.tell_mapped(platform, key, range));
        if range.touched == Touched::Tables {
            completion.join(&self.tables_changed(platform, key, root));
            // What is used now is elsewhere.
            self.give_up_empty_table(platform, key);
        }
        Ok(completion)
    }

    /// Tells those units of what was mapped that do not see it by themselves, or gathers it while they are at what they were
    /// asked for the same client.
    fn tell_mapped(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        range: Changed,
    ) -> Completion {
        let nothing = Completion::none();
        let Some(domain) = self.domains.get(&key) else { return nothing };
        let blind = |unit| unit_at(&self.units, unit).is_some_and(|it| !it.sees_by_itself());
        if self.all_see || !domain.memberships().any(|(unit, _)| blind(unit)) {
            return nothing;
        }
        if self.is_busy(key) {
            return self.deferred.gather(key, platform.now(), 1, true);
        }
        self.tell_now(platform, key, range)
    }

    /// The same where none of them is at anything. What is confirmed at once nobody waits for.
    fn tell_now(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        range: Changed,
    ) -> Completion {
        let Self { domains, units, deferred, .. } = self;
        let Some(domain) = domains.get(&key) else { return Completion::none() };
        let told = ask_each(units, domain, |unit, id| {
            (!unit.sees_by_itself()).then(|| unit.mapped(platform, id, range))
        });
        if !told.is_none() {
            deferred.asked(line_of(domain, key), &told);
        }
        told
    }

    /// Sees to it that units walk the tables that a mapping has made, which are under another root if this one is
    /// not the root any more: from the completion on they do.
    pub(super) fn tables_changed(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        root: PhysAddr,
    ) -> Completion {
        let mut completion = Completion::none();
        let Some(domain) = self.domains.get(&key) else { return completion };
        completion.join(domain.unlinked());
        let grown = domain.root() != root;
        // Units may still walk tables that were unlinked: the client is not to wait for a batch to fill.
        self.tell_gathered(platform, key);
        if grown {
            completion.join(&self.follow_root(platform, key));
        }
        if let Some(domain) = self.domains.get_mut(&key) {
            domain.catch_up(&completion);
        }
        completion
    }

    /// Tells the units that a domain's table has grown: it has another root. The old one is a part of the new,
    /// so that what was mapped is reached by either.
    pub(super) fn follow_root(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
    ) -> Completion {
        let mut completion = Completion::none();
        let Some(domain) = self.domains.get(&key) else { return completion };
        if let Some(slot) = domain.slot() {
            self.ledger.update(platform, slot, &domain.record(key));
        }
        for group in self.groups.iter_mut().filter(|group| group.attached == Some(key)) {
            let Some((unit, id)) = group.unit.and_then(|unit| Some((unit, domain.id_at(unit)?)))
            else {
                continue;
            };
            let Some(hardware) = unit_mut(&mut self.units, unit) else { continue };
            let translation =
                Translation { domain: id, table: domain.root(), levels: domain.levels() };
            for source in &group.spec.requesters {
                if let Some(ticket) = hardware.retarget(platform, *source, translation) {
                    completion.add(unit, ticket);
                }
            }
            group.entering.join(&completion);
        }
        completion
    }

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

    /// Maps memory where a table that is kept although it is empty may be in the way of a large page.
    #[cold]
    fn map_where_a_table_was(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        spec: &MapSpec,
    ) -> Result<(Iova, Completion), EngineError> {
        let given_up = self.give_up_empty_table(platform, key);
        let (iova, mut completion) = self.map(platform, key, spec)?;
        completion.join(&given_up);
        Ok((iova, completion))
    }

    /// Gives up the table of a domain that is kept although it is empty: from the completion on no unit walks it.
    #[cold]
    pub(super) fn give_up_empty_table(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
    ) -> Completion {
        let domain = self.domains.get_mut(&key);
        let given_up = domain.and_then(|it| it.give_up_empty(platform, &mut self.unlinked));
        let Some(change) = given_up else { return Completion::none() };
        let changes = &[change];
        let gone = Gone { key, ranges: &[], payers: &[], changes, when: Invalidation::Strict };
        let forgotten = self.forget(platform, gone, None);
        // A large page may come in its place at once, without a table that is made for it. Units see it when they have
        // forgotten this one.
        if !forgotten.is_none()
            && let Some(domain) = self.domains.get_mut(&key)
        {
            domain.catch_up(&forgotten);
        }
        forgotten
    }

    /// The same before so much is mapped at once that a large page could be in it.
    pub(super) fn make_way(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        bytes: u64,
    ) -> Completion {
        match bytes >= LARGE_PAGE {
            true => self.give_up_empty_table(platform, key),
            false => Completion::none(),
        }
    }

    /// Gives up the empty tables for whose sake such payers pay for one.
    pub fn give_up_empty_tables(
        &mut self,
        platform: &mut impl Platform,
        whose: impl Fn(Payer) -> bool,
    ) {
        let is_theirs = |domain: &Domain| domain.keeps_empty_of(platform, &whose);
        let theirs = self.domains.iter().filter(|(_, domain)| is_theirs(domain));
        let theirs: Vec<DomainKey> = theirs.map(|(key, _)| key).collect();
        for key in theirs {
            self.give_up_empty_table(platform, key);
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
        ranges: impl IntoIterator<Item = (Iova, u64)>,
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
        ranges: impl IntoIterator<Item = (Iova, u64)>,
        when: Invalidation,
        mut is_its: impl FnMut(Iova, &Mapping) -> bool,
    ) -> Result<Completion, EngineError> {
        let mut sorted = core::mem::take(&mut self.ranges);
        sorted.clear();
        sorted.extend(ranges);
        sorted.sort_unstable();
        let completion = match self.unmap_chain(platform, key, &sorted, when, &mut is_its) {
            Some(completion) => completion,
            None => {
                self.break_chains(key, &sorted);
                self.unmap_sorted(platform, key, &sorted, when, is_its)
            }
        };
        self.ranges = sorted;
        completion
    }

    /// Whether unmaps in a domain are answered before units have confirmed them, if the client asks for no more.
    pub fn answers_at_once(&self, key: DomainKey, when: Invalidation) -> bool {
        let domain = self.domains.get(&key).map(Domain::invalidation);
        (domain, when) == (Some(Invalidation::Deferred), Invalidation::Deferred)
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

    /// Frees what was unmapped when it may be, which is later, with frames that were unlinked.
    fn retire_ranges(
        &mut self,
        (key, ranges, payers): (DomainKey, &[(Iova, u64)], &[Payer]),
        completion: &Completion,
        mut frames: Vec<(PhysAddr, Payer)>,
    ) {
        for (&(iova, bytes), &payer) in ranges.iter().zip(payers) {
            let (completion, range) = (completion.clone(), Some((key, iova, bytes)));
            let frames = core::mem::take(&mut frames);
            self.books.note_operations(payer, 1);
            self.retired.put(Retired { completion, frames, range, payer, ..Retired::default() });
        }
        if !frames.is_empty() {
            let completion = completion.clone();
            self.retired.put(Retired { completion, frames, ..Retired::default() });
        }
    }

    /// Frees a run of memory that no device can reach once `completion` is done, and strikes out its record.
    pub fn free_run_after(
        &mut self,
        platform: &mut impl Platform,
        completion: Completion,
        run: RetiredRun,
    ) {
        self.retire(platform, Retired { completion, run: Some(run), ..Retired::default() });
    }

    /// Frees something at once if it may be, else when it may.
    pub(super) fn retire(&mut self, platform: &mut impl Platform, retired: Retired) {
        if self.progress(&retired.completion) == Progress::Done {
            self.free(platform, retired);
        } else {
            self.retired.put(retired);
        }
    }

    /// Frees everything that the units have confirmed.
    pub(super) fn release(&mut self, platform: &mut impl Platform) {
        for _ in 0..self.retired.waiting() {
            let Self { retired: list, units, deferred, .. } = self;
            if let Some(retired) = list.look(|it| progress(units, deferred, it)) {
                if retired.range.is_some() {
                    self.books.note_operations(retired.payer, -1);
                }
                self.free(platform, retired);
            }
        }
    }

    /// Makes addresses of a domain free, which somebody pays for.
    fn free_range(&mut self, payer: Payer, (key, iova, bytes): (DomainKey, Iova, u64)) {
        self.books.note_addresses(payer, -payer::bytes(bytes));
        if let Some(domain) = self.domains.get_mut(&key) {
            domain.free_addresses(iova, bytes);
        }
    }

    fn free(&mut self, platform: &mut impl Platform, retired: Retired) {
        let Retired { frames, range, payer, addresses, domain_ids, run, .. } = retired;
        for (frame, payer) in frames {
            platform.free_frame(frame);
            self.books.note(payer, Turnover { frames: -1, ..Turnover::default() });
        }
        for (payer, bytes) in addresses {
            let iova_bytes = -payer::bytes(bytes);
            self.books.note(payer, Turnover { iova_bytes, ..Turnover::default() });
        }
        if let Some(range) = range {
            self.free_range(payer, range);
        }
        for (unit, id) in domain_ids {
            if let Some(hardware) = unit_mut(&mut self.units, unit) {
                hardware.domain_ids().give_back(id);
            }
        }
        if let Some(RetiredRun { run, record, bytes, payer }) = run {
            let run_bytes = -payer::bytes(bytes);
            self.books.note(payer, Turnover { runs: -1, run_bytes, ..Turnover::default() });
            self.free_seen_run(platform, run, record);
        }
    }
}

/// Refuses to map in a domain one of whose units has failed, or where units may hold something of before at any address that
/// is free.
#[inline(never)]
pub(super) fn check_units(
    units: &[UnitSlot],
    domain: &Domain,
    is_taking_over: bool,
) -> Result<(), EngineError> {
    if domain.memberships().any(|(unit, _)| has_failed(units, unit)) {
        return Err(EngineError::UnitFailed);
    }
    if is_taking_over { Err(EngineError::NotForgotten) } else { Ok(()) }
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
fn ask_each(
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
