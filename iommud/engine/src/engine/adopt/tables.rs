//! What is mapped, and whose that is.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{Iova, PhysAddr, SourceId};

use super::frames::FrameSet;
use super::read::Written;
use super::{AdoptError, OwnedBuffer, OwnedPeerBar, Owners};
use crate::completion::UnitId;
use crate::domain::{Addresses, DomainKey, DomainTable, Mapping, Owner};
use crate::ledger::Slot;
use crate::machine::{Found, Group, ReservedRange};
use crate::payer::Payer;
use crate::platform::{Platform, Segment, TableFrames};
use crate::records::{DomainRecord, Purpose};
use crate::segments;
use crate::table::{Extent, Told};
use crate::unit::{DomainId, Translation};

/// A domain as it was found.
pub(super) struct SeenDomain {
    pub(super) slot: Slot,
    pub(super) record: DomainRecord,
    pub(super) table: DomainTable,
    pub(super) addresses: Addresses,
    extents: Vec<Extent>,
}

/// Everything that was found.
pub(super) struct Seen {
    /// By what each requester is translated that is not blocked.
    pub(super) translations: BTreeMap<(UnitId, SourceId), Translation>,
    pub(super) domains: BTreeMap<DomainKey, SeenDomain>,
}

impl Seen {
    /// Looks at all tables, and takes each frame once.
    pub(super) fn look(
        platform: &impl TableFrames,
        written: &Written,
        found: &Found,
        frames: &mut FrameSet,
    ) -> Result<Self, AdoptError> {
        let mut translations = BTreeMap::new();
        for (index, slot) in found.units.iter().enumerate() {
            let (Ok(unit), id) = (&slot.unit, UnitId(index as u16)) else { continue };
            let entries = unit.examine(platform, &mut |frame| frames.visit(frame));
            let entries = entries.ok_or(AdoptError::DeviceTable(slot.base))?;
            let entries = entries.into_iter();
            translations.extend(entries.map(|(source, entry)| ((id, source), entry)));
        }
        let mut domains = BTreeMap::new();
        for (slot, record) in &written.domains {
            let key = DomainKey(record.key);
            let table = DomainTable::found(&record.abilities, record.root, record.levels);
            let table = table.ok_or(AdoptError::Record)?;
            let told = match record.purpose {
                // Pages of it are taken apart where memory is kept from it, and those that are left have no marks.
                Purpose::Unconfined => Told::ByMemory,
                Purpose::Own | Purpose::Explicit | Purpose::Home => Told::ByMarks,
            };
            let extents = table.examine(platform, told, &mut |frame| frames.visit(frame));
            let extents = extents.map_err(|it| AdoptError::PageTable(key, it.0))?;
            let reserved = found.plan.reserved().map(ReservedRange::as_iova_range);
            let addresses = Addresses::new(&record.abilities, record.aperture, reserved);
            let addresses = addresses.map_err(|_| AdoptError::Record)?;
            let (slot, record) = (*slot, *record);
            domains.insert(key, SeenDomain { slot, record, table, addresses, extents });
        }
        let seen = Self { translations, domains };
        seen.check_ids(written, found)?;
        Ok(seen)
    }

    /// Each unit knows a domain by one id, and no other by that: what it caches is tagged with the id alone.
    fn check_ids(&self, written: &Written, found: &Found) -> Result<(), AdoptError> {
        let (mut ids, mut domains) = (BTreeMap::new(), BTreeMap::new());
        for (_, attachment) in &written.attachments {
            let covers = |group: &&Group| {
                group.spec.segment == attachment.device.segment()
                    && group.spec.requesters.contains(&attachment.device.source())
            };
            let Some(unit) = found.groups.iter().find(covers).and_then(|group| group.unit) else {
                continue;
            };
            let (key, id) = (DomainKey(attachment.domain), DomainId::new(attachment.id));
            let one_id = *ids.entry((unit, key)).or_insert(id) == id;
            let one_domain = *domains.entry((unit, id)).or_insert(key) == key;
            if !one_id || !one_domain || id == DomainId::new(0) {
                return Err(AdoptError::Record);
            }
        }
        Ok(())
    }
}

impl SeenDomain {
    /// What of it belongs to somebody. The runs of the owners must be kept.
    pub(super) fn mappings(
        &self,
        platform: &impl Platform,
        key: DomainKey,
        owners: &Owners,
        reserved: &[Segment],
    ) -> BTreeMap<Iova, Mapping> {
        let mut mappings = BTreeMap::new();
        for extent in &self.extents {
            let Extent { iova, bytes, access, memory } = extent;
            let mut add = |iova, bytes, owner, offset| {
                let (access, payer) = (*access, Payer::NOBODY);
                mappings.insert(iova, Mapping { bytes, access, owner, offset, payer });
            };
            let identity = memory.as_slice() == [as_memory(*iova, *bytes)];
            let firmware = segments::common(memory, reserved);
            match self.record.purpose {
                Purpose::Unconfined if identity => {
                    for piece in segments::without(memory, reserved) {
                        add(Iova::new(piece.start.get()), piece.bytes, Owner::Identity, 0);
                    }
                    for piece in firmware {
                        add(Iova::new(piece.start.get()), piece.bytes, Owner::Firmware, 0);
                    }
                }
                _ if identity && firmware == *memory => add(*iova, *bytes, Owner::Firmware, 0),
                _ => {
                    let owner = owner_of(platform, key, owners, extent);
                    if let Some((number, offset)) = owner.filter(|_| firmware.is_empty()) {
                        add(*iova, *bytes, Owner::Buffer(number), offset);
                    }
                }
            }
        }
        mappings
    }
}

/// I/O addresses as the memory at the same addresses.
fn as_memory(iova: Iova, bytes: u64) -> Segment {
    Segment { start: PhysAddr::new(iova.get()), bytes }
}

/// Whose the memory is that is mapped somewhere, and from where on in it.
fn owner_of(
    platform: &impl Platform,
    key: DomainKey,
    owners: &Owners,
    extent: &Extent,
) -> Option<(u64, u64)> {
    let is_peer_bar = |peer_bar: &&OwnedPeerBar| {
        (peer_bar.domain, peer_bar.iova) == (key, extent.iova)
            && extent.memory.as_slice() == [peer_bar.place]
    };
    if let Some(peer_bar) = owners.peer_bars.iter().find(is_peer_bar) {
        return Some((peer_bar.number, 0));
    }
    let buffers = owners.buffers.iter().filter(|buffer| buffer.domains.contains(&key));
    let mut found: Option<(&OwnedBuffer, u64)> = None;
    for buffer in buffers {
        let Some(offset) = offset_in(platform.segments(buffer.run), buffer.bytes, extent) else {
            continue;
        };
        if buffer.first == Some(extent.iova) {
            return Some((buffer.number, offset));
        }
        found = found.or(Some((buffer, offset)));
    }
    found.map(|(buffer, offset)| (buffer.number, offset))
}

/// Where in a run of these segments, of which a buffer has so much, all of an extent's memory is.
fn offset_in(run: &[Segment], bytes: u64, extent: &Extent) -> Option<u64> {
    let first = extent.memory.first()?.start.get();
    let mut before = 0u64;
    for segment in run {
        if let Some(within) = first.checked_sub(segment.start.get())
            && within < segment.bytes
        {
            let offset = before + within;
            let mut pieces = Vec::new();
            segments::cut(run, offset, extent.bytes, &mut pieces)?;
            let fits = offset.checked_add(extent.bytes)? <= bytes;
            return (fits && joined(&pieces) == extent.memory).then_some(offset);
        }
        before += segment.bytes;
    }
    None
}

/// Pieces of memory with those that are adjacent as one.
fn joined(pieces: &[Segment]) -> Vec<Segment> {
    let mut joined: Vec<Segment> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if last.start.checked_add(last.bytes) == Some(piece.start) => {
                last.bytes += piece.bytes;
            }
            _ => joined.push(*piece),
        }
    }
    joined
}
