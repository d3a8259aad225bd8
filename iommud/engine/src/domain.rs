//! Domains: I/O address spaces, each with its page table.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{Access, Iova, PhysAddr};

use crate::completion::{Completion, UnitId};
use crate::error::EngineError;
use crate::iova::{INTERRUPT_RANGE, IovaAllocator, IovaRange, IovaRequest, PAGE_ZERO};
use crate::ledger::Slot;
use crate::machine::ReservedRange;
use crate::platform::{Segment, TableFrames};
use crate::table::{PageTable, Translation, Unmapped};
use crate::vtd::context::{AddressWidth, DomainId};
use crate::vtd::invalidation::Touched;
use crate::vtd::second_stage::SecondStage;
use crate::vtd::unit::Changed;

/// Names a domain. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainKey(pub u64);

/// What lies at an I/O address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// How long it is.
    pub bytes: u64,
    /// What a device may do.
    pub access: Access,
    /// Whose it is.
    pub owner: Owner,
}

/// Whose a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The firmware's: a range that it reserves for a device, mapped where it is (rule R1).
    Firmware,
    /// A client's buffer, by its number.
    Buffer(u64),
}

impl Owner {
    /// The number of the client's buffer, if it is one.
    pub const fn buffer(self) -> Option<u64> {
        match self {
            Self::Buffer(number) => Some(number),
            Self::Firmware => None,
        }
    }
}

/// A domain's place at one unit that devices of it are behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Membership {
    unit: UnitId,
    id: DomainId,
    devices: u32,
}

/// What a domain is made for: what every unit must be able to do that its devices are behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainFormat {
    /// The depth of its tables.
    pub width: AddressWidth,
    /// The layout of its entries, and which pages there are.
    pub entries: SecondStage,
    /// How many bits of address reach a table: no unit takes more.
    pub address_bits: u8,
    /// Whether a device that may write must be allowed to read, too (rule R6).
    pub write_needs_read: bool,
}

/// An I/O address space and its page table.
#[derive(Debug)]
pub struct Domain {
    format: DomainFormat,
    table: PageTable<SecondStage>,
    addresses: IovaAllocator,
    mappings: BTreeMap<Iova, Mapping>,
    memberships: Vec<Membership>,
    /// What the units have yet to confirm of all that was ever detached from it.
    detached: Completion,
    /// What they have yet to confirm of tables that were unlinked: until then they may look for what is mapped
    /// in the old ones.
    unlinked: Completion,
    /// Its record in the ledger, once it is written.
    slot: Option<Slot>,
}

impl Domain {
    /// An empty domain, in which the ranges of `reserved` are never given out.
    pub fn new(
        frames: &mut impl TableFrames,
        format: DomainFormat,
        reserved: impl IntoIterator<Item = IovaRange>,
    ) -> Result<Self, EngineError> {
        let bits = format.address_bits.min(format.width.bits());
        let mut addresses = IovaAllocator::new(Iova::new((1 << bits) - 1));
        for range in [PAGE_ZERO, INTERRUPT_RANGE].into_iter().chain(reserved) {
            addresses.reserve(range)?;
        }
        Ok(Self {
            format,
            table: PageTable::new(format.entries, frames)?,
            addresses,
            mappings: BTreeMap::new(),
            memberships: Vec::new(),
            detached: Completion::none(),
            unlinked: Completion::none(),
            slot: None,
        })
    }

    /// What the domain is made for.
    pub fn format(&self) -> &DomainFormat {
        &self.format
    }

    /// The root of its page table.
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

    /// Maps the physical pieces of a buffer, at an address that is free.
    pub fn map(
        &mut self,
        frames: &mut impl TableFrames,
        pieces: &[Segment],
        request: IovaRequest,
        access: Access,
        owner: Owner,
    ) -> Result<(Iova, Touched), EngineError> {
        let natural = request.aligned(request.align.max(self.natural_alignment(request.bytes)));
        // Large pages are an advantage and no need: where only an odd place is free, small ones do.
        let iova = self.addresses.alloc(natural).or_else(|_| self.addresses.alloc(request))?;
        let mapped = self.enter(frames, iova, request.bytes, pieces, access, owner);
        if mapped.is_err() {
            // Nothing was entered, so nothing can have been cached: the address is free at once.
            self.addresses.free(iova, request.bytes)?;
        }
        mapped.map(|touched| (iova, touched))
    }

    /// Maps a range that firmware reserves, at the I/O address that is its physical one (rule R1). Its
    /// addresses have been reserved, so that nothing else lies there.
    pub fn map_firmware_range(
        &mut self,
        frames: &mut impl TableFrames,
        start: PhysAddr,
        bytes: u64,
    ) -> Result<(), EngineError> {
        let piece = Segment { start, bytes };
        let iova = Iova::new(start.get());
        self.enter(frames, iova, bytes, &[piece], Access::ReadWrite, Owner::Firmware).map(drop)
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
            Access::Write if self.format.write_needs_read => Access::ReadWrite,
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

    /// Whether just these ranges of firmware's are mapped.
    pub fn holds_reserved(&self, ranges: &[ReservedRange]) -> bool {
        let firmware = self.mappings.iter().filter(|(_, it)| it.owner == Owner::Firmware);
        let held = firmware.map(|(iova, mapping)| (iova.get(), mapping.bytes));
        held.eq(ranges.iter().map(|range| (range.start.get(), range.bytes)))
    }

    /// What an address should be a multiple of, so that a buffer of this size can be mapped by the
    /// largest pages that it fills.
    fn natural_alignment(&self, bytes: u64) -> u64 {
        self.format.entries.largest_page_within(bytes)
    }
}
