//! What is mapped at its own addresses: what firmware reserves, and memory for devices that are not confined.

use alloc::vec::Vec;

use dma_types::{Access, Iova, PciAddress, PhysAddr};

use super::{Domain, Mapping, Owner};
use crate::error::EngineError;
use crate::machine::ReservedRange;
use crate::payer::Payer;
use crate::platform::{Segment, TableFrames};
use crate::segments;
use crate::table::Unmapped;
use crate::unit::Changed;

impl Domain {
    /// Maps a range that firmware reserves, at the I/O address that is its physical one (rule R1). Its
    /// addresses have been reserved, so that nothing else lies there.
    pub fn map_firmware_range(
        &mut self,
        frames: &mut impl TableFrames,
        range: ReservedRange,
    ) -> Result<Changed, EngineError> {
        let ReservedRange { start, bytes, access } = range;
        let (iova, piece) = (Iova::new(start.get()), Segment { start, bytes });
        let mapping =
            Mapping { bytes, access, owner: Owner::Firmware, offset: 0, payer: Payer::NOBODY };
        let touched = self.enter(frames, iova, &[piece], mapping)?;
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
        let mapped: Vec<Segment> = self.identity().collect();
        for piece in segments::without(&mapped, &wanted) {
            let iova = Iova::new(piece.start.get());
            let Unmapped { start, bytes, touched } =
                self.table.unmap(frames, iova, piece.bytes, retired)?;
            changed.push(Changed { start, bytes, touched });
            self.carve_out(piece);
        }
        // It could be in the way of a large page.
        changed.extend(self.give_up_empty(frames, retired));
        for piece in segments::without(&wanted, &mapped) {
            let iova = Iova::new(piece.start.get());
            let (bytes, access, owner) = (piece.bytes, Access::ReadWrite, Owner::Identity);
            let mapping = Mapping { bytes, access, owner, offset: 0, payer: Payer::NOBODY };
            let touched = self.enter(frames, iova, &[piece], mapping)?;
            changed.push(Changed { start: iova, bytes: piece.bytes, touched });
            self.join(iova, piece.bytes);
        }
        Ok(())
    }

    /// What is mapped where it is in memory, for devices that are not confined.
    pub fn identity(&self) -> impl Iterator<Item = Segment> {
        self.pieces_of(Owner::Identity)
    }

    /// What of an owner's is mapped where it is in memory.
    fn pieces_of(&self, owner: Owner) -> impl Iterator<Item = Segment> {
        let own = self.fixed.iter().filter(move |(_, mapping)| mapping.owner == owner);
        own.map(|(iova, mapping)| Segment {
            start: PhysAddr::new(iova.get()),
            bytes: mapping.bytes,
        })
    }

    /// Makes one of an identity mapping and those that it touches: what comes and goes beside it leaves nothing behind.
    fn join(&mut self, at: Iova, bytes: u64) {
        let (mut first, mut end) = (at, at.get().saturating_add(bytes));
        let of_identity = |mapping: &&Mapping| mapping.owner == Owner::Identity;
        if let Some(next) = self.fixed.get(&Iova::new(end)).filter(of_identity) {
            let bytes = next.bytes;
            self.fixed.remove(&Iova::new(end));
            end = end.saturating_add(bytes);
        }
        let before = self.fixed.range(..at).next_back();
        let before = before.filter(|(_, it)| it.owner == Owner::Identity);
        if let Some((&start, it)) = before
            && start.get().checked_add(it.bytes) == Some(at.get())
        {
            self.fixed.remove(&at);
            first = start;
        }
        if let Some(whole) = self.fixed.get_mut(&first) {
            whole.bytes = end - first.get();
        }
    }

    /// Notes that a part of an identity mapping is gone.
    fn carve_out(&mut self, piece: Segment) {
        let at = Iova::new(piece.start.get());
        let Some((&start, &whole)) = self.fixed.range(..=at).next_back() else { return };
        self.fixed.remove(&start);
        let of = Segment { start: PhysAddr::new(start.get()), bytes: whole.bytes };
        for rest in segments::without(&[of], &[piece]) {
            let mapping = Mapping { bytes: rest.bytes, ..whole };
            self.fixed.insert(Iova::new(rest.start.get()), mapping);
        }
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
        let firmware = self.fixed.iter().filter(|(_, it)| it.owner == Owner::Firmware);
        let held = firmware.map(|(iova, mapping)| (iova.get(), mapping.bytes));
        held.eq(ranges.iter().map(|range| (range.start.get(), range.bytes)))
    }
}
