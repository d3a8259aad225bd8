//! Memory in domains, and how units come to see it.

use dma_types::{Access, Iova, PhysAddr};

use super::Engine;
use super::deferred::line_of;
use super::units::{has_failed, progress, unit_at, unit_mut};
use super::unmapping::ask_each;
use crate::completion::{Completion, Progress};
use crate::domain::{Domain, DomainKey, Mapping, Owner};
use crate::error::EngineError;
use crate::iova::IovaRequest;
use crate::machine::UnitSlot;
use crate::payer;
use crate::platform::{Platform, RunId};
use crate::segments;
use crate::table::MapError;
use crate::table::format::LARGE_PAGE;
use crate::unit::{Changed, Touched, Translation};

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
    pub(super) fn tell_now(
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
