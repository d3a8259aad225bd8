//! A domain: an I/O address space with its page table.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{Access, Iova, PciAddress, PhysAddr};

use super::chains::Chains;
use super::members::Membership;
use super::{Addresses, DomainTable, Mapping, Place};
use crate::completion::Completion;
use crate::error::EngineError;
use crate::iova::{IovaRange, IovaRequest};
use crate::ledger::Slot;
use crate::payer::Payer;
use crate::platform::{Segment, TableFrames};
use crate::policy::Invalidation;
use crate::records::{DomainRecord, MADE_FOR, Purpose};
use crate::retired::Retired;
use crate::segments;
use crate::table::{Translation, Unmapped};
use crate::unit::{Abilities, Changed, Touched};

/// Names a domain. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainKey(pub u64);

/// An I/O address space and its page table.
#[derive(Debug)]
pub struct Domain {
    /// The devices whose reserved ranges were mapped when it was made.
    pub(super) made_for: Vec<PciAddress>,
    /// What every unit must be able to do that its devices are behind.
    pub(super) abilities: Abilities,
    pub(super) table: DomainTable,
    /// When an unmap is answered.
    invalidation: Invalidation,
    /// Which addresses are taken, with what clients have mapped there.
    pub(super) addresses: Addresses,
    /// What clients have mapped as chains.
    pub(super) chains: Chains,
    /// What is mapped at its own addresses, which are nobody's to take: what firmware reserves, and memory.
    pub(super) fixed: BTreeMap<Iova, Mapping>,
    pub(super) memberships: Vec<Membership>,
    /// What the units have yet to confirm of all that was ever detached from it.
    pub(super) detached: Completion,
    /// What they have yet to confirm of tables that were unlinked: until then they may look for what is mapped
    /// in the old ones.
    pub(super) unlinked: Completion,
    /// What they have yet to confirm before they walk the tables that were made last, and see what is mapped there.
    pub(super) catching_up: Completion,
    /// What it is for.
    purpose: Purpose,
    /// The aperture that was asked for.
    aperture: Option<IovaRange>,
    /// Its record in the ledger, once it is written.
    slot: Option<Slot>,
    /// Who pays for which frames of its table. Those that are not here nobody pays.
    paid: BTreeMap<PhysAddr, Payer>,
    /// For which client it was made.
    client: Payer,
}

impl Domain {
    /// An empty domain for these devices, that asks no more of its units than these abilities, which
    /// [`DomainTable::narrow`] gave, with the addresses of an aperture or all that there are. The ranges of `reserved`
    /// are never given out in it.
    pub fn new(
        frames: &mut impl TableFrames,
        made_for: &[PciAddress],
        abilities: Abilities,
        aperture: Option<IovaRange>,
        reserved: impl IntoIterator<Item = IovaRange>,
    ) -> Result<Self, EngineError> {
        let addresses = Addresses::new(&abilities, aperture, reserved)?;
        Ok(Self {
            made_for: made_for.to_vec(),
            abilities,
            table: DomainTable::new(frames, &abilities)?,
            invalidation: Invalidation::Strict,
            addresses,
            chains: Chains::default(),
            fixed: BTreeMap::new(),
            memberships: Vec::new(),
            detached: Completion::none(),
            unlinked: Completion::none(),
            catching_up: Completion::none(),
            purpose: Purpose::Own,
            aperture,
            slot: None,
            paid: BTreeMap::new(),
            client: Payer::NOBODY,
        })
    }

    /// A domain that a predecessor made, as its record says, with this table of it and what is mapped there, for whose
    /// addresses have been taken. `made_for` are its devices.
    pub fn found(
        record: &DomainRecord,
        slot: Slot,
        table: DomainTable,
        addresses: Addresses,
        made_for: Vec<PciAddress>,
        mappings: impl IntoIterator<Item = (Iova, Mapping)>,
    ) -> Self {
        let invalidation = match record.is_deferred {
            true => Invalidation::Deferred,
            false => Invalidation::Strict,
        };
        let mut domain = Self {
            made_for,
            abilities: record.abilities,
            table,
            invalidation,
            addresses,
            chains: Chains::default(),
            fixed: BTreeMap::new(),
            memberships: Vec::new(),
            detached: Completion::none(),
            unlinked: Completion::none(),
            catching_up: Completion::none(),
            purpose: record.purpose,
            aperture: record.aperture,
            slot: Some(slot),
            paid: BTreeMap::new(),
            client: Payer::NOBODY,
        };
        mappings.into_iter().for_each(|(iova, mapping)| domain.note(iova, &mapping));
        domain
    }

    /// Whether its table has grown from one with this root and so many levels, by which a unit may still go.
    pub fn has_grown_from(&self, frames: &impl TableFrames, root: PhysAddr, levels: u8) -> bool {
        self.table.has_grown_from(frames, root, levels)
    }

    /// What is written down of it.
    pub fn record(&self, key: DomainKey) -> DomainRecord {
        let mut made_for = [None; MADE_FOR];
        for (place, device) in made_for.iter_mut().zip(&self.made_for) {
            *place = Some(*device);
        }
        DomainRecord {
            key: key.0,
            root: self.root(),
            levels: self.levels(),
            abilities: self.abilities,
            purpose: self.purpose,
            is_deferred: self.invalidation == Invalidation::Deferred,
            aperture: self.aperture,
            made_for,
        }
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Says what it is for, before it is written down.
    pub fn set_purpose(&mut self, purpose: Purpose) {
        self.purpose = purpose;
    }

    /// What every unit must be able to do that its devices are behind.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// When an unmap in it is answered.
    #[inline]
    pub fn invalidation(&self) -> Invalidation {
        self.invalidation
    }

    /// Has unmaps in it gathered.
    pub fn defer_invalidation(&mut self) {
        self.invalidation = Invalidation::Deferred;
    }

    /// How many levels its page table has.
    pub fn levels(&self) -> u8 {
        self.table.levels()
    }

    /// The root of its page table. Both change when the table grows.
    pub fn root(&self) -> PhysAddr {
        self.table.root()
    }

    /// The record of it in the ledger, once it is written.
    pub fn slot(&self) -> Option<Slot> {
        self.slot
    }

    /// Notes where its record in the ledger is.
    pub fn set_slot(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    /// Notes for which client it was made.
    pub fn set_client(&mut self, client: Payer) {
        self.client = client;
    }

    /// For which client it was made.
    pub fn client(&self) -> Payer {
        self.client
    }

    /// Notes who pays for frames that its table has taken.
    pub fn pay(&mut self, taken: &[PhysAddr], payer: Payer) {
        if payer != Payer::NOBODY {
            self.paid.extend(taken.iter().map(|frame| (*frame, payer)));
        }
    }

    /// The frames that its table has given up, each with who pays for it until it is free.
    pub fn with_payers(&mut self, retired: Vec<PhysAddr>) -> Vec<(PhysAddr, Payer)> {
        let mut payer = |frame| self.paid.remove(&frame).unwrap_or(Payer::NOBODY);
        retired.into_iter().map(|frame| (frame, payer(frame))).collect()
    }

    /// All frames of its table.
    pub fn frames(&self, frames: &impl TableFrames) -> Vec<PhysAddr> {
        self.table.frames(frames)
    }

    /// The frames of its table that somebody pays for.
    pub fn paid(&self) -> impl Iterator<Item = (PhysAddr, Payer)> {
        self.paid.iter().map(|(frame, payer)| (*frame, *payer))
    }

    /// Maps the physical pieces of a buffer, at an address that is free. Without an IOMMU that is where they are in
    /// memory, if they are one.
    #[inline]
    pub fn map(
        &mut self,
        frames: &mut impl TableFrames,
        pieces: &[Segment],
        request: IovaRequest,
        mapping: Mapping,
    ) -> Result<(Iova, Touched), EngineError> {
        let iova = if matches!(self.table, DomainTable::Absent) {
            let IovaRequest { bytes, align, first, limit } = request;
            let place = Place::Anywhere { align, first, limit };
            self.take_physical(pieces, place, core::iter::once(bytes))?.0
        } else {
            self.addresses.take(request)?
        };
        let mapped = self.enter(frames, iova, pieces, mapping);
        if mapped.is_err() {
            // Nothing was entered, so nothing can have been cached: the address is free at once.
            self.addresses.free(iova, mapping.bytes);
        }
        mapped.map(|touched| (iova, touched))
    }

    /// Takes addresses out of use for a chain of mappings of these lengths, whose memory is all these pieces together: from where
    /// on, and how many bytes of them. They are one range, to be [entered](Self::enter_memory) and noted
    /// then, or freed.
    pub fn take_chain(
        &mut self,
        pieces: &[Segment],
        place: Place,
        lengths: impl Iterator<Item = u64>,
    ) -> Result<(Iova, u64), EngineError> {
        if matches!(self.table, DomainTable::Absent) {
            self.take_physical(pieces, place, lengths)
        } else {
            self.addresses.take_chain(place, lengths)
        }
    }

    /// Takes the addresses out of use that memory has by itself, if a device can use it as it is.
    fn take_physical(
        &mut self,
        pieces: &[Segment],
        place: Place,
        lengths: impl Iterator<Item = u64>,
    ) -> Result<(Iova, u64), EngineError> {
        let (start, bytes) = segments::as_one(pieces).ok_or(EngineError::InPieces(pieces.len()))?;
        let last = start.get().checked_add(bytes - 1);
        let iova = Iova::new(start.get());
        let (Place::Anywhere { limit, .. } | Place::At { limit, .. }) = place;
        match place {
            Place::At { iova: chosen, .. } if chosen != iova => {
                return Err(EngineError::Elsewhere(start));
            }
            _ if last.is_none_or(|last| last > limit.get()) => {
                return Err(EngineError::Unsuitable(start));
            }
            Place::Anywhere { first, .. } if iova < first => {
                return Err(EngineError::Unsuitable(start));
            }
            Place::Anywhere { align, .. } if !start.is_aligned(align) => {
                return Err(EngineError::Misaligned(start));
            }
            Place::Anywhere { .. } | Place::At { .. } => {}
        }
        self.addresses.take_chain(Place::At { iova, limit }, lengths)
    }

    /// Maps physical pieces at addresses that were taken out of use for them.
    #[inline]
    pub fn enter(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        pieces: &[Segment],
        mapping: Mapping,
    ) -> Result<Touched, EngineError> {
        let access = self.abilities.permitted(mapping.access);
        let touched = self.table.map(frames, iova, pieces, access)?;
        self.note(iova, &Mapping { access, ..mapping });
        Ok(touched)
    }

    /// Maps the memory of a mapping of a chain, which is to be noted with the others.
    pub fn enter_memory(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        pieces: &[Segment],
        access: Access,
    ) -> Result<Touched, EngineError> {
        Ok(self.table.map(frames, iova, pieces, self.abilities.permitted(access))?)
    }

    /// Takes a mapping out of the table: what has changed, and on whose account it was. What the table needs no more is
    /// added to `retired`; neither that nor the addresses are free before every unit has confirmed (rule R2).
    ///
    /// # Errors
    ///
    /// [`EngineError::NotMapped`] if the range is not exactly one mapping of a client's, or `is_its` denies that one.
    #[inline]
    pub fn unmap(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        is_its: impl FnOnce(&Mapping) -> bool,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<(Changed, Payer), EngineError> {
        self.break_chain(iova);
        let noted = self.addresses.find_noted(iova, bytes);
        let (place, note) = noted.ok_or(EngineError::NotMapped)?;
        let mapping = note.mapping(bytes);
        if !is_its(&mapping) {
            return Err(EngineError::NotMapped);
        }
        let Unmapped { start, bytes, touched } = self.table.unmap(frames, iova, bytes, retired)?;
        self.addresses.forget(place);
        Ok((Changed { start, bytes, touched }, mapping.payer))
    }

    /// Takes the memory of a whole chain, or of mappings side by side, out of the table, as [`unmap`](Self::unmap) does that of
    /// one. A chain is to be forgotten then.
    pub fn withdraw(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Changed, EngineError> {
        let Unmapped { start, bytes, touched } = self.table.unmap(frames, iova, bytes, retired)?;
        Ok(Changed { start, bytes, touched })
    }

    /// On whose account a client's mapping is, if the range is exactly one, and `is_its` does not deny that.
    #[inline]
    pub fn payer_of(
        &mut self,
        iova: Iova,
        bytes: u64,
        is_its: impl FnOnce(&Mapping) -> bool,
    ) -> Option<Payer> {
        let (_, note) = self.addresses.find_noted(iova, bytes)?;
        let mapping = note.mapping(bytes);
        is_its(&mapping).then_some(mapping.payer)
    }

    /// Takes mappings that lie side by side, each directly behind the one before, out of the table at one go, and forgets what is
    /// noted of them, which has been [looked at](Self::payer_of): what has changed. What the table needs no more is added to
    /// `retired`; neither that nor the addresses are free before every unit has confirmed (rule R2).
    ///
    /// # Errors
    ///
    /// [`EngineError::Unmap`] if the table is broken.
    pub fn unmap_run(
        &mut self,
        frames: &mut impl TableFrames,
        run: &[(Iova, u64)],
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Changed, EngineError> {
        let start = run.first().map_or(Iova::new(0), |(iova, _)| *iova);
        let bytes = run.iter().map(|(_, bytes)| bytes).sum();
        let change = self.withdraw(frames, start, bytes, retired)?;
        for (iova, bytes) in run {
            if let Some((place, _)) = self.addresses.find_noted(*iova, *bytes) {
                self.addresses.forget(place);
            }
        }
        Ok(change)
    }

    /// Whether there is a table that is kept although it is empty, and such payers pay for it or for one of those above, which
    /// may be there for its sake alone.
    pub fn keeps_empty_of(&self, frames: &impl TableFrames, whose: impl Fn(Payer) -> bool) -> bool {
        let payer = |frame: &PhysAddr| self.paid.get(frame).copied().unwrap_or(Payer::NOBODY);
        self.table.way_to_empty(frames).iter().any(|frame| whose(payer(frame)))
    }

    /// Gives up the table that is kept although it is empty: what has changed, if there was one. The frames that it was in are
    /// added to `retired`.
    pub fn give_up_empty(
        &mut self,
        frames: &impl TableFrames,
        retired: &mut Vec<PhysAddr>,
    ) -> Option<Changed> {
        // What is bent stays as it is, and is found when something is unmapped there.
        let given_up = self.table.give_up_empty(frames, retired).ok().flatten()?;
        let Unmapped { start, bytes, touched } = given_up;
        Some(Changed { start, bytes, touched })
    }

    /// Makes addresses free again: that were unmapped, after every unit has confirmed, or that nothing was mapped at.
    #[inline]
    pub fn free_addresses(&mut self, iova: Iova, bytes: u64) {
        self.addresses.free(iova, bytes);
    }

    /// The same of several, one behind the other.
    pub fn free_all_addresses(&mut self, ranges: &[(Iova, u64)]) {
        self.addresses.free_all(ranges);
    }

    /// Takes the whole table apart: its frames, the addresses of its mappings, and until when they are not free.
    pub fn destroy(self, frames: &mut impl TableFrames) -> Retired {
        let mut addresses: Vec<(Payer, u64)> = Vec::new();
        for (_, Mapping { payer, bytes, .. }) in self.mappings() {
            match addresses.iter_mut().find(|(other, _)| *other == payer) {
                Some((_, sum)) => *sum += bytes,
                None => addresses.push((payer, bytes)),
            }
        }
        let Self { table, mut paid, detached: completion, .. } = self;
        let mut unpaid = Vec::new();
        table.destroy(frames, &mut unpaid);
        let mut payer = |frame| paid.remove(&frame).unwrap_or(Payer::NOBODY);
        let frames = unpaid.into_iter().map(|frame| (frame, payer(frame))).collect();
        Retired { completion, frames, addresses, ..Retired::default() }
    }

    /// The addresses in which mappings may lie, but for what is reserved.
    pub fn aperture(&self) -> IovaRange {
        self.addresses.aperture()
    }

    /// The addresses that are never given out.
    pub fn reserved(&self) -> impl Iterator<Item = IovaRange> {
        self.addresses.reserved()
    }

    /// How many pieces of addresses are not free, and how many bytes these are with their guards: of what is mapped, and of
    /// what was and waits for units to forget it.
    pub fn taken_addresses(&self) -> (u64, u64) {
        let (pieces, bytes) = self.addresses.taken();
        (pieces + self.chains.more(), bytes)
    }

    /// What the page table says of an address.
    pub fn translate(&self, frames: &impl TableFrames, iova: Iova) -> Option<Translation> {
        self.table.translate(frames, iova)
    }

    /// Visits the frame of every table of its page table.
    ///
    /// # Errors
    ///
    /// [`EngineError::Map`] at a table that is not in the arena.
    pub fn visit_tables(
        &self,
        frames: &impl TableFrames,
        visitor: impl FnMut(PhysAddr),
    ) -> Result<(), EngineError> {
        Ok(self.table.visit_tables(frames, visitor)?)
    }
}
