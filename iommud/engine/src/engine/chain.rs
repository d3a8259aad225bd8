//! Mappings at chosen addresses, and one behind the other.

use alloc::vec;
use alloc::vec::Vec;

use dma_types::{Access, Iova};

use super::Engine;
use super::mapping::check_units;
use super::unmapping::{Gone, ask_units, is_told_now};
use crate::completion::Completion;
use crate::domain::{Domain, DomainKey, Mapping, Owner, Place};
use crate::error::EngineError;
use crate::iova::{IovaError, IovaRequest};
use crate::payer::{self, Payer};
use crate::platform::{Platform, RunId, Segment};
use crate::policy::Invalidation;
use crate::segments;
use crate::unit::{Changed, Touched};

/// One mapping of a chain.
#[derive(Clone, Copy, Debug)]
pub struct ChainPiece {
    /// The run of memory.
    pub run: RunId,
    /// Where in it the mapping starts, a multiple of 4096.
    pub offset: u64,
    /// How long it is, a multiple of 4096, not zero.
    pub bytes: u64,
    /// What the device may do.
    pub access: Access,
    /// The client's number for its buffer, for reports.
    pub owner: u64,
}

/// Why a chain was not mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotMapped {
    /// Why.
    pub error: EngineError,
    /// Pieces before the one that failed were in the table for a moment, and units may hold them until this is done: none
    /// of the chain's memory is to be free before (rule R2).
    pub lasting: Completion,
}

impl From<EngineError> for NotMapped {
    fn from(error: EngineError) -> Self {
        Self { error, lasting: Completion::none() }
    }
}

impl ChainPiece {
    const fn mapping(&self, payer: Payer) -> Mapping {
        let Self { bytes, access, owner, offset, .. } = *self;
        Mapping { bytes, access, owner: Owner::Buffer(owner), offset, payer }
    }
}

impl Engine {
    /// Maps memory in a domain at a chosen place, or wherever there is room: one piece, or several of which each lies
    /// directly behind the one before, all or none (rule R7). Each is a mapping of its own. From the completion on at
    /// the latest, the domain's devices reach them.
    ///
    /// Without an IOMMU that is where the memory is, which must be one piece and is the only place that can be chosen.
    ///
    /// # Errors
    ///
    /// [`EngineError::OutsideAperture`], [`EngineError::BeyondLimit`], [`EngineError::Elsewhere`],
    /// [`EngineError::NotForgotten`] and [`EngineError::Iova`] of a place, and all that [`Engine::map`] fails with; and what
    /// lasts of the attempt.
    pub fn map_chain(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        place: Place,
        chain: &[ChainPiece],
    ) -> Result<(Iova, Completion), NotMapped> {
        match self.map_chain_at_hand(platform, key, place, chain) {
            Some(range) if self.all_see => Ok((range.start, Completion::none())),
            Some(range) => Ok((range.start, self.tell_now(platform, key, range))),
            None => self.map_chain_anyhow(platform, key, place, chain),
        }
    }

    /// Maps several pieces where that takes no more than entries of a table and a note, as most often, and units may be told of it
    /// at once.
    fn map_chain_at_hand(
        &mut self,
        platform: &impl Platform,
        key: DomainKey,
        place: Place,
        chain: &[ChainPiece],
    ) -> Option<Changed> {
        let (Place::Anywhere { align, first, limit }, [_, _, ..]) = (place, chain) else {
            return None;
        };
        let Self { domains, books, deferred, near, pieces: memory, .. } = self;
        if !self.is_plain || !(self.all_see || deferred.is_idle()) {
            return None;
        }
        let domain = domains.at_hand(key).filter(|it| it.catching_up().is_none())?;
        memory.clear();
        let mut bytes = 0u64;
        for piece in chain {
            let run = (piece.run, platform.segments(piece.run));
            segments::cut_near(run, (piece.offset, piece.bytes), near, memory)?;
            bytes = bytes.saturating_add(piece.bytes);
        }
        let request = IovaRequest { bytes, align, first, limit };
        let payer = books.purse.payer;
        let mappings = chain.iter().map(|piece| piece.mapping(payer));
        let start = domain.map_chain_at_hand(platform, &request, memory, mappings)?;
        books.note_addresses(payer, payer::bytes(bytes));
        Some(Changed { start, bytes, touched: Touched::Leaves })
    }

    /// Maps pieces whatever it takes.
    #[inline(never)]
    fn map_chain_anyhow(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        place: Place,
        chain: &[ChainPiece],
    ) -> Result<(Iova, Completion), NotMapped> {
        let domain = self.domains.get(&key).ok_or(EngineError::NoSuchDomain(key))?;
        if !self.is_plain {
            check_units(&self.units, domain, self.is_taking_over)?;
        }
        let root = domain.root();
        let longest = chain.iter().map(|piece| piece.bytes).max();
        let given_up = self.make_way(platform, key, longest.unwrap_or(0));
        let mut memory = core::mem::take(&mut self.pieces);
        memory.clear();
        let mapped = self.enter_chain(platform, key, place, chain, &mut memory);
        self.pieces = memory;
        self.follow_arenas(platform);
        let range = mapped?;
        // Of the memory, and of the tables that it may have taken.
        let mut kept = self.keeping.completion(&self.pieces, range.touched == Touched::Tables);
        kept.join(&given_up);
        Ok((range.start, self.mapped(platform, key, root, range, kept)?))
    }

    /// Enters a chain in the domain's table.
    fn enter_chain(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        place: Place,
        chain: &[ChainPiece],
        memory: &mut Vec<Segment>,
    ) -> Result<Changed, NotMapped> {
        let root = self.domains.get(&key).map(Domain::root);
        for piece in chain {
            let run = (piece.run, platform.segments(piece.run));
            let cut = segments::cut_near(run, (piece.offset, piece.bytes), &mut self.near, memory);
            cut.ok_or(EngineError::OutOfRun)?;
        }
        let (start, bytes) = self.take_place(platform, key, memory, place, chain)?;
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let payer = self.books.purse.payer;
        let mut range = Changed { start, bytes: 0, touched: Touched::Leaves };
        let (mut left, mut taken) = (&memory[..], 0);
        for piece in chain {
            let (here, rest) = segments::split_at_bytes(left, piece.bytes);
            let iova = Iova::new(start.get() + range.bytes);
            let mut frames = self.books.meter(platform, taken);
            // Each by itself: a successor tells by the table where one mapping ends and the next begins.
            let entered = domain.enter_memory(&mut frames, iova, here, piece.access);
            let bill = frames.bill;
            match entered.map_err(|error| bill.error(error)) {
                Ok(Touched::Leaves) if bill.taken.is_empty() => {}
                Ok(touched) => {
                    taken += bill.taken.len();
                    self.books.take_tables(domain, &bill.taken);
                    if touched == Touched::Tables {
                        range.touched = touched;
                    }
                }
                Err(error) => {
                    // What was not entered can be cached nowhere, and is free at once. The rest units may have seen.
                    let [entered, missing] = [range.bytes, bytes - range.bytes];
                    if entered == 0 {
                        domain.free_addresses(start, bytes);
                        return Err(error.into());
                    }
                    let whole = piece.mapping(payer);
                    let parts = [entered, missing].map(|bytes| Mapping { bytes, ..whole });
                    domain.note_chain(start, parts.into_iter());
                    domain.break_chain(start);
                    domain.free_addresses(iova, missing);
                    self.books.note_addresses(payer, payer::bytes(entered));
                    if let Some(root) = root.filter(|root| *root != domain.root()) {
                        // The table stays as high as it has grown. Units are to walk it from its new root before the old
                        // one can be free (rule R2), and what is mapped later is nowhere else.
                        self.tables_changed(platform, key, root);
                    }
                    let unmapped = self.unmap(platform, key, start, entered);
                    // What cannot be unmapped may be reached for good.
                    let lasting = unmapped.unwrap_or_else(|_| Completion::never());
                    return Err(NotMapped { error, lasting });
                }
            }
            range.bytes += piece.bytes;
            left = rest;
        }
        domain.note_chain(start, chain.iter().map(|piece| piece.mapping(payer)));
        self.books.note_addresses(payer, payer::bytes(bytes));
        Ok(range)
    }

    /// Takes a chain away as it was mapped, if these ranges are just its mappings in their order, and units are told at once.
    /// Nothing, with nothing changed, where it is otherwise.
    pub(super) fn unmap_chain(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        ranges: impl Iterator<Item = (Iova, u64)> + Clone,
        when: Invalidation,
        is_its: &mut impl FnMut(Iova, &Mapping) -> bool,
    ) -> Option<Result<Completion, EngineError>> {
        let Self { domains, units, deferred, books, unlinked, .. } = self;
        let domain = domains.get_mut(&key)?;
        if !deferred.is_idle() || !is_told_now(domain, when) {
            return None;
        }
        let (start, _) = ranges.clone().next()?;
        let (mut bytes, mut payer) = (0, Payer::NOBODY);
        for (iova, mapping) in domain.whole_chain(ranges.clone())? {
            if !is_its(iova, &mapping) {
                return Some(Err(EngineError::NotMapped));
            }
            // One request has made all of them.
            (bytes, payer) = (bytes + mapping.bytes, mapping.payer);
        }
        let change = match domain.withdraw(platform, start, bytes, unlinked) {
            Ok(change) => change,
            Err(error) => {
                self.forget_unlinked(platform, key, (start, bytes));
                return Some(Err(error));
            }
        };
        let completion = ask_units(units, platform, domain, &[change]);
        let is_free = completion.is_none() && unlinked.is_empty();
        domain.forget_chain(start, !is_free);
        if is_free {
            books.note_addresses(payer, -payer::bytes(bytes));
            domain.free_addresses(start, bytes);
            return Some(Ok(Completion::none()));
        }
        let (ranges, changes) = (&Vec::from_iter(ranges), &[change]);
        let payers = &vec![payer; ranges.len()];
        let gone = Gone { key, ranges, payers, changes, when };
        Some(Ok(self.forget(platform, gone, Some(completion))))
    }

    /// Has the mappings of chains in which some of these ranges start be as any others.
    pub(super) fn break_chains(&mut self, key: DomainKey, ranges: &[(Iova, u64)]) {
        if let Some(domain) = self.domains.get_mut(&key) {
            ranges.iter().for_each(|(iova, _)| domain.break_chain(*iova));
        }
    }

    /// Takes the addresses of a chain out of use.
    fn take_place(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        memory: &[Segment],
        place: Place,
        chain: &[ChainPiece],
    ) -> Result<(Iova, u64), EngineError> {
        let lengths = chain.iter().map(|piece| piece.bytes);
        let take = |engine: &mut Self| {
            let domain = engine.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
            domain.take_chain(memory, place, lengths.clone())
        };
        let taken = take(self);
        let (Err(EngineError::Iova(IovaError::Allocated { .. })), Place::At { iova, .. }) =
            (&taken, place)
        else {
            return taken;
        };
        let bytes: u64 = lengths.clone().sum();
        if self.domains.get(&key).is_some_and(|domain| domain.overlaps(iova, bytes)) {
            return taken;
        }
        // Nothing is mapped there. If something was, units may have forgotten it by now.
        self.tell_gathered(platform, key);
        self.poll(platform);
        match take(self) {
            Err(EngineError::Iova(IovaError::Allocated { allocation }))
                if self.retired.holds(key, allocation) =>
            {
                Err(EngineError::NotForgotten)
            }
            taken => taken,
        }
    }
}
