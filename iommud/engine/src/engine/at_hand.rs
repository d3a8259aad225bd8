//! Memory in and out of domains where that takes few steps, as most often.
//!
//! All is looked at before anything is changed. What is not as simple as it is here is left to the general ways, which find out
//! why, with nothing changed.

use dma_types::{Access, Iova};

use super::Engine;
use super::mapping::MapSpec;
use super::units::unit_mut;
use super::unmapping::{Gone, is_told_now};
use crate::completion::{Completion, Ticket, UnitId};
use crate::domain::{DomainKey, DomainTable, Mapping, Owner};
use crate::iova::IovaRequest;
use crate::payer::Payer;
use crate::platform::Platform;
use crate::policy::Invalidation;
use crate::segments;
use crate::unit::{Changed, Touched};

/// What a unit was asked, and has not confirmed.
pub(super) struct Asked {
    unit: UnitId,
    ticket: Ticket,
    /// On whose account the mapping was.
    payer: Payer,
}

impl Engine {
    /// Maps memory where that takes no more than entries of a table and a note, as most often, and units may be told of it at once.
    #[inline]
    pub(super) fn map_at_hand(
        &mut self,
        platform: &impl Platform,
        key: DomainKey,
        spec: &MapSpec,
    ) -> Option<Iova> {
        let memory = platform.segments(spec.run);
        match segments::in_first(memory, spec.offset, spec.bytes) {
            Some(piece) => self.enter_at_hand(key, spec, |table, iova, access| {
                table.map_at_hand(platform, iova, piece, access)
            }),
            None => self.map_pieces_at_hand(platform, key, spec),
        }
    }

    /// The same of memory that is in several pieces.
    #[inline(never)]
    fn map_pieces_at_hand(
        &mut self,
        platform: &impl Platform,
        key: DomainKey,
        spec: &MapSpec,
    ) -> Option<Iova> {
        let MapSpec { run, offset, bytes, .. } = *spec;
        let mut pieces = core::mem::take(&mut self.pieces);
        pieces.clear();
        let memory = (run, platform.segments(run));
        let cut = segments::cut_near(memory, (offset, bytes), &mut self.near, &mut pieces);
        let start = cut.and_then(|()| {
            self.enter_at_hand(key, spec, |table, iova, access| {
                table.map_pieces_at_hand(platform, iova, &pieces, access)
            })
        });
        self.pieces = pieces;
        start
    }

    /// Maps what `enter` enters in the table.
    #[inline(always)]
    fn enter_at_hand(
        &mut self,
        key: DomainKey,
        spec: &MapSpec,
        enter: impl FnOnce(&mut DomainTable, Iova, Access) -> bool,
    ) -> Option<Iova> {
        let Self { domains, books, deferred, .. } = self;
        if !self.is_plain || !(self.all_see || deferred.is_idle()) {
            return None;
        }
        let domain = domains.at_hand(key).filter(|it| it.catching_up().is_none())?;
        let MapSpec { offset, bytes, access, align, first, limit, owner, .. } = *spec;
        let payer = books.purse.payer;
        let mapping = Mapping { bytes, access, owner: Owner::Buffer(owner), offset, payer };
        let request = IovaRequest { bytes, align, first, limit };
        let start = domain.map_at_hand(&request, owner, &mapping, enter)?;
        books.note_addresses(payer, bytes as i64);
        Some(start)
    }

    /// Takes a mapping away where that takes no more than entries of a table, a note, and a question to one unit, as most often:
    /// what that has not confirmed at once. Otherwise nothing has changed, and why that is the general way finds out.
    #[inline]
    pub(super) fn unmap_at_hand(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        (start, bytes): (Iova, u64),
        when: Invalidation,
        is_its: impl FnMut(&Mapping) -> bool,
    ) -> Option<Option<Asked>> {
        let Self { domains, units, deferred, books, .. } = self;
        if !deferred.is_idle() {
            return None;
        }
        let domain = domains.at_hand(key).filter(|domain| is_told_now(domain, when))?;
        let leaving = domain.unmap_at_hand(platform, start, bytes, is_its)?;
        let payer = leaving.payer;
        let change = Changed { start, bytes, touched: Touched::Leaves };
        if let Some((unit, id)) = leaving.unit
            && let Some(hardware) = unit_mut(units, unit)
            && let Some(ticket) = hardware.forget(platform, id, change)
        {
            leaving.keep();
            return Some(Some(Asked { unit, ticket, payer }));
        }
        leaving.free();
        books.note_addresses(payer, -(bytes as i64));
        Some(None)
    }

    /// Frees the addresses of what was unmapped at hand when the unit has confirmed it.
    #[inline(never)]
    pub(super) fn wait_for(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        (start, bytes): (Iova, u64),
        when: Invalidation,
        Asked { unit, ticket, payer }: Asked,
    ) -> Completion {
        let changes = &[Changed { start, bytes, touched: Touched::Leaves }];
        let gone = Gone { key, ranges: &[(start, bytes)], payers: &[payer], changes, when };
        self.forget(platform, gone, Some(Completion::one(unit, ticket)))
    }
}
