//! Mappings at chosen addresses, and one behind the other.

use alloc::vec::Vec;

use dma_types::{Access, Iova};

use super::{Engine, has_failed};
use crate::completion::Completion;
use crate::domain::{Domain, DomainKey, Mapping, Owner, Place};
use crate::error::EngineError;
use crate::iova::IovaError;
use crate::payer::Payer;
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
    /// [`EngineError::OutsideWindow`], [`EngineError::BeyondLimit`], [`EngineError::Elsewhere`],
    /// [`EngineError::NotForgotten`] and [`EngineError::Iova`] of a place, and all that [`Engine::map`] fails with; and what
    /// lasts of the attempt.
    pub fn map_chain(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        place: Place,
        chain: &[ChainPiece],
    ) -> Result<(Iova, Completion), NotMapped> {
        let domain = self.domains.get(&key).ok_or(EngineError::NoSuchDomain(key))?;
        if domain.memberships().any(|(unit, _)| has_failed(&self.units, unit)) {
            return Err(EngineError::UnitFailed.into());
        }
        if self.is_taking_over {
            // Units may hold something of before at any address that is free.
            return Err(EngineError::NotForgotten.into());
        }
        let root = domain.root();
        let mut memory = core::mem::take(&mut self.pieces);
        memory.clear();
        let mapped = self.enter_chain(platform, key, place, chain, &mut memory);
        self.pieces = memory;
        self.follow_arenas(platform);
        let range = mapped?;
        // Of the memory, and of the tables that it may have taken.
        let kept = self.keeping.completion(&self.pieces, range.touched == Touched::Tables);
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
        // Where the memory of each ends among the segments of all.
        let mut ends = Vec::with_capacity(chain.len());
        for piece in chain {
            let run = platform.segments(piece.run);
            segments::cut(run, piece.offset, piece.bytes, memory).ok_or(EngineError::OutOfRun)?;
            ends.push(memory.len());
        }
        let lengths: Vec<u64> = chain.iter().map(|piece| piece.bytes).collect();
        let start = self.take_place(platform, key, memory, place, &lengths)?;
        let domain = self.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
        let mut range = Changed { start, bytes: 0, touched: Touched::Leaves };
        let (mut first, mut taken) = (0, 0);
        for (index, (piece, end)) in chain.iter().zip(ends).enumerate() {
            let iova = Iova::new(start.get() + range.bytes);
            let segments = memory.get(first..end).unwrap_or_default();
            let mut frames = self.books.meter(platform, taken);
            let mapping = piece.mapping(self.books.purse.payer);
            let entered = domain.enter(&mut frames, iova, segments, mapping);
            taken += frames.bill.taken.len();
            match self.books.paid(domain, frames.bill, piece.bytes, entered) {
                Ok(Touched::Tables) => range.touched = Touched::Tables,
                Ok(Touched::Leaves) => {}
                Err(error) => {
                    let (entered, rest) = chain.split_at(index);
                    // What was not entered can be cached nowhere, and is free at once. The rest units may have seen.
                    free_chain(domain, iova, rest);
                    if let Some(root) = root.filter(|root| *root != domain.root()) {
                        // The table stays as high as it has grown. Units are to walk it from its new root before the old
                        // one can be free (rule R2), and what is mapped later is nowhere else.
                        self.tables_changed(platform, key, root);
                    }
                    let entered = with_addresses(start, entered);
                    let unmapped = self.unmap_all(platform, key, entered, Invalidation::Deferred);
                    // What cannot be unmapped may be reached for good.
                    let lasting = unmapped.unwrap_or_else(|_| Completion::never());
                    return Err(NotMapped { error, lasting });
                }
            }
            range.bytes += piece.bytes;
            first = end;
        }
        Ok(range)
    }

    /// Takes the addresses of a chain out of use.
    fn take_place(
        &mut self,
        platform: &mut impl Platform,
        key: DomainKey,
        memory: &[Segment],
        place: Place,
        lengths: &[u64],
    ) -> Result<Iova, EngineError> {
        let take = |engine: &mut Self| {
            let domain = engine.domains.get_mut(&key).ok_or(EngineError::NoSuchDomain(key))?;
            domain.take_chain(memory, place, lengths)
        };
        let taken = take(self);
        let (Err(EngineError::Iova(IovaError::Allocated { .. })), Place::At { iova, .. }) =
            (&taken, place)
        else {
            return taken;
        };
        let bytes: u64 = lengths.iter().sum();
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

/// The pieces of a chain that starts there, as ranges.
fn with_addresses(start: Iova, chain: &[ChainPiece]) -> impl Iterator<Item = (Iova, u64)> {
    chain.iter().scan(start.get(), |next, piece| {
        let range = (Iova::new(*next), piece.bytes);
        *next += piece.bytes;
        Some(range)
    })
}

/// Makes the addresses of what was not entered free again.
fn free_chain(domain: &mut Domain, start: Iova, chain: &[ChainPiece]) {
    for (iova, bytes) in with_addresses(start, chain) {
        domain.free_addresses(iova, bytes);
    }
}
