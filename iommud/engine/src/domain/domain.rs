//! A domain: an I/O address space with its page table.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{Access, Iova, PAGE_SIZE, PciAddress, PhysAddr};

use super::{DomainTable, Mapping, Owner};
use crate::completion::{Completion, UnitId};
use crate::error::EngineError;
use crate::iova::{
    Guard, HYPERTRANSPORT_RANGE, INTERRUPT_RANGE, IovaAllocator, IovaRange, IovaRequest, PAGE_ZERO,
};
use crate::ledger::Slot;
use crate::machine::ReservedRange;
use crate::platform::{Segment, TableFrames};
use crate::policy::Invalidation;
use crate::segments;
use crate::table::{Translation, Unmapped};
use crate::unit::{Abilities, Changed, DomainId, Touched, Walks};

/// Names a domain. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainKey(pub u64);

/// A domain's place at one unit that devices of it are behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Membership {
    unit: UnitId,
    id: DomainId,
    devices: u32,
}

/// An I/O address space and its page table.
#[derive(Debug)]
pub struct Domain {
    /// The devices whose reserved ranges were mapped when it was made.
    made_for: Vec<PciAddress>,
    /// What every unit must be able to do that its devices are behind.
    abilities: Abilities,
    table: DomainTable,
    /// When an unmap is answered.
    invalidation: Invalidation,
    addresses: IovaAllocator,
    mappings: BTreeMap<Iova, Mapping>,
    memberships: Vec<Membership>,
    /// What the units have yet to confirm of all that was ever detached from it.
    detached: Completion,
    /// What they have yet to confirm of tables that were unlinked: until then they may look for what is mapped
    /// in the old ones.
    unlinked: Completion,
    /// What they have yet to confirm before they walk the tables that were made last, and see what is mapped there.
    catching_up: Completion,
    /// Its record in the ledger, once it is written.
    slot: Option<Slot>,
}

impl Domain {
    /// An empty domain for these devices, that asks no more of its units than these abilities, which
    /// [`DomainTable::narrow`] gave. The ranges of `reserved` are never given out in it.
    pub fn new(
        frames: &mut impl TableFrames,
        made_for: &[PciAddress],
        abilities: Abilities,
        reserved: impl IntoIterator<Item = IovaRange>,
    ) -> Result<Self, EngineError> {
        let last =
            u64::MAX.checked_shl(abilities.address_bits.into()).map_or(u64::MAX, |high| !high);
        let mut addresses = IovaAllocator::new(Iova::new(last));
        let hypertransport = match abilities.walks {
            Walks::AmdV1 => Some(HYPERTRANSPORT_RANGE),
            Walks::SecondStage | Walks::Nothing => None,
        };
        let everywhere = [PAGE_ZERO, INTERRUPT_RANGE].into_iter().chain(hypertransport);
        for range in everywhere.chain(reserved) {
            addresses.reserve(range)?;
        }
        Ok(Self {
            made_for: made_for.to_vec(),
            abilities,
            table: DomainTable::new(frames, &abilities)?,
            invalidation: Invalidation::Strict,
            addresses,
            mappings: BTreeMap::new(),
            memberships: Vec::new(),
            detached: Completion::none(),
            unlinked: Completion::none(),
            catching_up: Completion::none(),
            slot: None,
        })
    }

    /// What every unit must be able to do that its devices are behind.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// When an unmap in it is answered.
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

    /// Maps the physical pieces of a buffer, at an address that is free. Without an IOMMU that is where they are in
    /// memory, if they are one.
    pub fn map(
        &mut self,
        frames: &mut impl TableFrames,
        pieces: &[Segment],
        request: IovaRequest,
        access: Access,
        owner: Owner,
    ) -> Result<(Iova, Touched), EngineError> {
        let iova = if matches!(self.table, DomainTable::Absent) {
            self.take_physical(pieces, request)?
        } else {
            let natural = request.aligned(request.align.max(self.natural_alignment(request.bytes)));
            // Large pages are an advantage and no need: where only an odd place is free, small ones do.
            self.addresses.alloc(natural).or_else(|_| self.addresses.alloc(request))?
        };
        let mapped = self.enter(frames, iova, request.bytes, pieces, access, owner);
        if mapped.is_err() {
            // Nothing was entered, so nothing can have been cached: the address is free at once.
            self.addresses.free(iova, request.bytes)?;
        }
        mapped.map(|touched| (iova, touched))
    }

    /// Takes the address out of use that memory has by itself, if a device can use it as it is.
    fn take_physical(
        &mut self,
        pieces: &[Segment],
        request: IovaRequest,
    ) -> Result<Iova, EngineError> {
        let &[Segment { start, bytes }] = pieces else {
            return Err(EngineError::InPieces(pieces.len()));
        };
        let last = start.get().checked_add(bytes - 1);
        let reached = last.is_some_and(|last| last <= request.limit.get());
        if !reached || !start.is_aligned(request.align) {
            return Err(EngineError::Unsuitable(start));
        }
        let iova = Iova::new(start.get());
        self.addresses.alloc_at(iova, bytes, Guard::None)?;
        Ok(iova)
    }

    /// Maps a range that firmware reserves, at the I/O address that is its physical one (rule R1). Its
    /// addresses have been reserved, so that nothing else lies there.
    pub fn map_firmware_range(
        &mut self,
        frames: &mut impl TableFrames,
        range: ReservedRange,
    ) -> Result<Changed, EngineError> {
        let ReservedRange { start, bytes, access } = range;
        let (iova, piece) = (Iova::new(start.get()), Segment { start, bytes });
        let touched = self.enter(frames, iova, bytes, &[piece], access, Owner::Firmware)?;
        Ok(Changed { start: iova, bytes, touched })
    }

    /// What of a range that firmware reserves is not mapped here yet.
    pub fn missing_of(&self, range: ReservedRange) -> Vec<ReservedRange> {
        let ReservedRange { start, bytes, access } = range;
        let held: Vec<Segment> = self.pieces_of(Owner::Firmware).collect();
        let missing = segments::without(&[Segment { start, bytes }], &held);
        missing
            .into_iter()
            .map(|it| ReservedRange { start: it.start, bytes: it.bytes, access })
            .collect()
    }

    /// Maps just this memory at its own addresses, as far as the table reaches and firmware's ranges leave room:
    /// what was so mapped and is not wanted any more is taken away, also where an error ends it. `changed` gets
    /// what units must be made to forget, and `retired` the frames that they may still walk.
    pub fn map_identity(
        &mut self,
        frames: &mut impl TableFrames,
        wanted: &[Segment],
        changed: &mut Vec<Changed>,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<(), EngineError> {
        let beyond = u64::MAX
            .checked_shl(self.abilities.address_bits.into())
            .map(|first| Segment { start: PhysAddr::new(first), bytes: u64::MAX - first });
        let mut kept: Vec<Segment> = self.pieces_of(Owner::Firmware).collect();
        kept.extend(beyond);
        let wanted = segments::without(wanted, &kept);
        let mapped: Vec<Segment> = self.pieces_of(Owner::Identity).collect();
        for piece in segments::without(&mapped, &wanted) {
            let iova = Iova::new(piece.start.get());
            let Unmapped { start, bytes, touched } =
                self.table.unmap(frames, iova, piece.bytes, retired)?;
            changed.push(Changed { start, bytes, touched });
            self.carve_out(piece);
        }
        for piece in segments::without(&wanted, &mapped) {
            let iova = Iova::new(piece.start.get());
            let owner = Owner::Identity;
            let touched =
                self.enter(frames, iova, piece.bytes, &[piece], Access::ReadWrite, owner)?;
            changed.push(Changed { start: iova, bytes: piece.bytes, touched });
        }
        Ok(())
    }

    /// What of an owner's is mapped where it is in memory.
    fn pieces_of(&self, owner: Owner) -> impl Iterator<Item = Segment> {
        let own = self.mappings.iter().filter(move |(_, mapping)| mapping.owner == owner);
        own.map(|(iova, mapping)| Segment {
            start: PhysAddr::new(iova.get()),
            bytes: mapping.bytes,
        })
    }

    /// Notes that a part of an identity mapping is gone.
    fn carve_out(&mut self, piece: Segment) {
        let at = Iova::new(piece.start.get());
        let Some((&start, &whole)) = self.mappings.range(..=at).next_back() else { return };
        self.mappings.remove(&start);
        let of = Segment { start: PhysAddr::new(start.get()), bytes: whole.bytes };
        for rest in segments::without(&[of], &[piece]) {
            let mapping = Mapping { bytes: rest.bytes, ..whole };
            self.mappings.insert(Iova::new(rest.start.get()), mapping);
        }
    }

    fn enter(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        pieces: &[Segment],
        access: Access,
        owner: Owner,
    ) -> Result<Touched, EngineError> {
        let access = match access {
            Access::Write if self.abilities.write_needs_read => Access::ReadWrite,
            access => access,
        };
        let touched = self.table.map(frames, iova, pieces, access)?;
        self.mappings.insert(iova, Mapping { bytes, access, owner });
        Ok(touched)
    }

    /// Takes a mapping out of the table. What the table needs no more is added to `retired`; neither that
    /// nor the addresses are free before every unit has confirmed (rule R2).
    ///
    /// # Errors
    ///
    /// [`EngineError::NotMapped`] if the range is not exactly one mapping of a client's.
    pub fn unmap(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Changed, EngineError> {
        match self.mappings.get(&iova) {
            Some(Mapping { bytes: whole, owner: Owner::Buffer(_), .. }) if *whole == bytes => {}
            _ => return Err(EngineError::NotMapped),
        }
        let Unmapped { start, bytes, touched } = self.table.unmap(frames, iova, bytes, retired)?;
        self.mappings.remove(&iova);
        Ok(Changed { start, bytes, touched })
    }

    /// Makes addresses free again that were unmapped, after every unit has confirmed.
    pub fn free_addresses(&mut self, iova: Iova, bytes: u64) {
        // They were allocated as exactly this range, by `map`.
        let freed = self.addresses.free(iova, bytes);
        debug_assert_eq!(freed, Ok(()));
    }

    /// Takes the whole table apart; all its frames are added to `retired`.
    pub fn destroy(self, frames: &mut impl TableFrames, retired: &mut Vec<PhysAddr>) -> Completion {
        self.table.destroy(frames, retired);
        self.detached
    }

    /// The mapping that starts at this address.
    pub fn mapping(&self, iova: Iova) -> Option<&Mapping> {
        self.mappings.get(&iova)
    }

    /// Every mapping, by address.
    pub fn mappings(&self) -> impl Iterator<Item = (Iova, &Mapping)> {
        self.mappings.iter().map(|(iova, mapping)| (*iova, mapping))
    }

    /// The addresses that are never given out.
    pub fn reserved(&self) -> impl Iterator<Item = IovaRange> {
        self.addresses.reserved()
    }

    /// How many bytes are mapped.
    pub fn mapped_bytes(&self) -> u64 {
        self.mappings.values().map(|mapping| mapping.bytes).sum()
    }

    /// What the page table says of an address.
    pub fn translate(&self, frames: &impl TableFrames, iova: Iova) -> Option<Translation> {
        self.table.translate(frames, iova)
    }

    /// The units that devices of the domain are, or were, behind, and its ids there.
    pub fn memberships(&self) -> impl Iterator<Item = (UnitId, DomainId)> {
        self.memberships.iter().map(|membership| (membership.unit, membership.id))
    }

    /// Its id at a unit, if it has one there.
    pub fn id_at(&self, unit: UnitId) -> Option<DomainId> {
        self.memberships().find(|(at, _)| *at == unit).map(|(_, id)| id)
    }

    /// How many devices are attached.
    pub fn devices(&self) -> u32 {
        self.memberships.iter().map(|membership| membership.devices).sum()
    }

    /// Counts a device behind `unit` in, at which the domain has this id.
    pub fn device_attached(&mut self, unit: UnitId, id: DomainId) {
        match self.memberships.iter_mut().find(|membership| membership.unit == unit) {
            Some(membership) => membership.devices += 1,
            None => self.memberships.push(Membership { unit, id, devices: 1 }),
        }
    }

    /// Counts a device behind `unit` out. Until `completion` the unit may still use the table.
    pub fn device_detached(&mut self, unit: UnitId, completion: &Completion) {
        if let Some(membership) =
            self.memberships.iter_mut().find(|membership| membership.unit == unit)
        {
            membership.devices = membership.devices.saturating_sub(1);
        }
        self.held_until(completion);
    }

    /// Notes that a unit may still use the table until `completion`, though no device counts as attached by it.
    pub fn held_until(&mut self, completion: &Completion) {
        self.detached.join(completion);
    }

    /// Notes that tables were unlinked, which units may walk until `completion`.
    pub fn tables_unlinked(&mut self, completion: &Completion) {
        self.unlinked.join(completion);
    }

    /// What units have yet to confirm before they see what is mapped in new tables.
    pub fn unlinked(&self) -> &Completion {
        &self.unlinked
    }

    /// Notes that tables were made which units walk only from `completion` on.
    pub fn catch_up(&mut self, completion: &Completion) {
        self.catching_up.join(completion);
    }

    /// What units have yet to confirm before they walk all tables that there are.
    pub fn catching_up(&self) -> &Completion {
        &self.catching_up
    }

    /// Notes that they have.
    pub fn caught_up(&mut self) {
        self.catching_up = Completion::none();
    }

    /// Notes a device more whose reserved ranges are mapped.
    pub fn admit(&mut self, device: PciAddress) {
        self.made_for.push(device);
    }

    /// Whether a device may be in it, for which firmware reserves these ranges: the domain was made for it, or
    /// just these ranges of firmware's are mapped.
    pub fn admits(&self, device: PciAddress, ranges: &[ReservedRange]) -> bool {
        if self.made_for.contains(&device) {
            return true;
        }
        let firmware = self.mappings.iter().filter(|(_, it)| it.owner == Owner::Firmware);
        let held = firmware.map(|(iova, mapping)| (iova.get(), mapping.bytes));
        held.eq(ranges.iter().map(|range| (range.start.get(), range.bytes)))
    }

    /// What an address should be a multiple of, so that a buffer of this size can be mapped by the
    /// largest pages that it fills.
    fn natural_alignment(&self, bytes: u64) -> u64 {
        let within = bytes.checked_ilog2().map_or(0, |order| (2u64 << order.min(62)) - 1);
        (self.abilities.page_sizes & within).checked_ilog2().map_or(PAGE_SIZE, |order| 1 << order)
    }
}
