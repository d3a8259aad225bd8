//! The page table of a domain, in whichever layout its units walk.

use alloc::vec::Vec;

use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};

use crate::amdvi::page_table::AmdV1;
use crate::platform::{Segment, TableFrames};
use crate::table::{
    Extent, MapError, NotATable, PageTable, Told, Translation, UnmapError, Unmapped,
};
use crate::unit::{Abilities, Depths, Mismatch, Touched, Walks};
use crate::vtd::context::AddressWidth;
use crate::vtd::second_stage::SecondStage;

/// As many bits of address as anybody needs. A table for more has a level more, which is a memory access more for
/// every translation that is not cached.
const ENOUGH_BITS: u8 = AddressWidth::Bits48.bits();

/// The page table of a domain.
#[derive(Debug)]
pub enum DomainTable {
    /// For VT-d units.
    SecondStage(PageTable<SecondStage>),
    /// For AMD-Vi units.
    AmdV1(PageTable<AmdV1>),
    /// For no unit: there is no IOMMU, and what a device reaches is not asked here.
    Absent,
}

/// Calls the method of whichever table it is; what it comes to where there is none.
macro_rules! each {
    ($table:expr, $inner:ident => $call:expr, $absent:expr) => {
        match $table {
            DomainTable::SecondStage($inner) => $call,
            DomainTable::AmdV1($inner) => $call,
            DomainTable::Absent => $absent,
        }
    };
}

impl DomainTable {
    /// Narrows what units can do to what a table of theirs will ask of them: one depth, where a table's depth is
    /// fixed when it is made, and no more address bits than it translates.
    ///
    /// # Errors
    ///
    /// [`Mismatch::Depth`] if there is none.
    pub fn narrow(abilities: &Abilities) -> Result<Abilities, Mismatch> {
        match abilities.walks {
            Walks::SecondStage => {
                let wanted = abilities.address_bits.min(ENOUGH_BITS);
                let widths = || abilities.depths.iter().filter_map(AddressWidth::from_levels);
                let width = widths()
                    .find(|width| width.bits() >= wanted)
                    .or_else(|| widths().next_back())
                    .ok_or(Mismatch::Depth)?;
                Ok(Abilities {
                    depths: Depths::new([width.levels()]),
                    address_bits: abilities.address_bits.min(width.bits()),
                    ..*abilities
                })
            }
            // The table grows as it must: any depth will do, up to that of all the addresses.
            Walks::AmdV1 => {
                let address_bits = abilities.address_bits.min(ENOUGH_BITS);
                let deepest = AmdV1::levels_for(address_bits);
                let depths = abilities.depths.and(Depths::new(1..=deepest));
                Ok(Abilities { depths, address_bits, ..*abilities })
            }
            Walks::Nothing => Ok(*abilities),
        }
    }

    /// An empty table that asks for no more than these abilities, which [`narrow`](Self::narrow) gave.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfFrames`].
    pub fn new(frames: &mut impl TableFrames, abilities: &Abilities) -> Result<Self, MapError> {
        let Abilities { page_sizes, coherent, .. } = *abilities;
        if abilities.walks == Walks::Nothing {
            return Ok(Self::Absent);
        }
        if abilities.walks == Walks::AmdV1 {
            let deepest = abilities.depths.iter().next_back().unwrap_or(1);
            return PageTable::new(AmdV1::new(deepest, page_sizes), frames).map(Self::AmdV1);
        }
        let width = abilities.depths.iter().next().and_then(AddressWidth::from_levels);
        let width = width.unwrap_or(AddressWidth::Bits48);
        let format = SecondStage::new(width, page_sizes, coherent);
        PageTable::new(format, frames).map(Self::SecondStage)
    }

    /// The table with this root and so many levels, which was made with these abilities. See [`PageTable::found`].
    pub fn found(abilities: &Abilities, root: PhysAddr, levels: u8) -> Option<Self> {
        let Abilities { page_sizes, coherent, .. } = *abilities;
        match abilities.walks {
            Walks::Nothing => Some(Self::Absent),
            Walks::AmdV1 => {
                let deepest = abilities.depths.iter().next_back()?;
                let format = AmdV1::new(deepest, page_sizes);
                PageTable::found(format, root, levels).map(Self::AmdV1)
            }
            Walks::SecondStage => {
                let width = abilities.depths.iter().next().and_then(AddressWidth::from_levels)?;
                let format = SecondStage::new(width, page_sizes, coherent);
                let same = width.levels() == levels;
                let table = PageTable::found(format, root, levels).filter(|_| same);
                table.map(Self::SecondStage)
            }
        }
    }

    /// See [`PageTable::examine`].
    ///
    /// # Errors
    ///
    /// [`NotATable`].
    pub fn examine(
        &self,
        frames: &impl TableFrames,
        told: Told,
        visit: &mut impl FnMut(PhysAddr) -> bool,
    ) -> Result<Vec<Extent>, NotATable> {
        each!(self, table => table.examine(frames, told, visit), Ok(Vec::new()))
    }

    /// See [`PageTable::prune`].
    ///
    /// # Errors
    ///
    /// [`NotATable`].
    pub fn prune(
        &mut self,
        frames: &impl TableFrames,
        keeps: &mut impl FnMut(Iova) -> bool,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Touched, NotATable> {
        each!(self, table => table.prune(frames, keeps, retired), Ok(Touched::Leaves))
    }

    /// See [`PageTable::frames`].
    pub fn frames(&self, frames: &impl TableFrames) -> Vec<PhysAddr> {
        each!(self, table => table.frames(frames), Vec::new())
    }

    /// See [`PageTable::has_grown_from`].
    pub fn has_grown_from(&self, frames: &impl TableFrames, root: PhysAddr, levels: u8) -> bool {
        each!(self, table => table.has_grown_from(frames, root, levels), false)
    }

    /// Its root, zero if it has none. It changes when the table grows.
    pub fn root(&self) -> PhysAddr {
        each!(self, table => table.root(), PhysAddr::default())
    }

    /// How many levels it has.
    pub fn levels(&self) -> u8 {
        each!(self, table => table.levels(), 0)
    }

    /// See [`PageTable::map`].
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed.
    #[inline]
    pub fn map(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        access: Access,
    ) -> Result<Touched, MapError> {
        each!(self, table => table.map(frames, iova, memory, access), Ok(Touched::Leaves))
    }

    /// See [`PageTable::map_at_hand`].
    #[inline(always)]
    pub fn map_at_hand(
        &mut self,
        frames: &impl TableFrames,
        iova: Iova,
        piece: Segment,
        access: Access,
    ) -> bool {
        each!(self, table => table.map_at_hand(frames, iova, piece, access), false)
    }

    /// See [`PageTable::map_pieces_at_hand`].
    pub fn map_pieces_at_hand(
        &mut self,
        frames: &impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        access: Access,
    ) -> bool {
        each!(self, table => table.map_pieces_at_hand(frames, iova, memory, access), false)
    }

    /// See [`PageTable::map_chain_at_hand`].
    pub fn map_chain_at_hand(
        &mut self,
        frames: &impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        mappings: impl Iterator<Item = (u64, Access)>,
    ) -> bool {
        each!(self, table => table.map_chain_at_hand(frames, iova, memory, mappings), false)
    }

    /// See [`PageTable::unmap_at_hand`].
    #[inline(always)]
    pub fn unmap_at_hand(&mut self, frames: &impl TableFrames, iova: Iova, bytes: u64) -> bool {
        each!(self, table => table.unmap_at_hand(frames, iova, bytes), false)
    }

    /// See [`PageTable::unmap`].
    ///
    /// # Errors
    ///
    /// [`UnmapError`], with nothing changed.
    #[inline]
    pub fn unmap(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Unmapped, UnmapError> {
        let nothing = Unmapped { start: iova, bytes, touched: Touched::Leaves };
        each!(self, table => table.unmap(frames, iova, bytes, retired), Ok(nothing))
    }

    /// See [`PageTable::way_to_empty`].
    pub fn way_to_empty(&self, frames: &impl TableFrames) -> Vec<PhysAddr> {
        each!(self, table => table.way_to_empty(frames), Vec::new())
    }

    /// See [`PageTable::give_up_empty`].
    ///
    /// # Errors
    ///
    /// [`UnmapError::Foreign`], with nothing changed.
    pub fn give_up_empty(
        &mut self,
        frames: &impl TableFrames,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Option<Unmapped>, UnmapError> {
        each!(self, table => table.give_up_empty(frames, retired), Ok(None))
    }

    /// See [`PageTable::translate`].
    pub fn translate(&self, frames: &impl TableFrames, iova: Iova) -> Option<Translation> {
        let same = Translation {
            phys: PhysAddr::new(iova.get()),
            access: Access::ReadWrite,
            page_bytes: PAGE_SIZE,
        };
        each!(self, table => table.translate(frames, iova), Some(same))
    }

    /// See [`PageTable::visit_tables`].
    ///
    /// # Errors
    ///
    /// [`MapError::Foreign`].
    pub fn visit_tables(
        &self,
        frames: &impl TableFrames,
        visitor: impl FnMut(PhysAddr),
    ) -> Result<(), MapError> {
        each!(self, table => table.visit_tables(frames, visitor), Ok(()))
    }

    /// See [`PageTable::destroy`].
    pub fn destroy(self, frames: &mut impl TableFrames, retired: &mut Vec<PhysAddr>) {
        each!(self, table => table.destroy(frames, retired), ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakeFrames;

    fn unit(walks: Walks, depths: &[u8], address_bits: u8) -> Abilities {
        Abilities {
            walks,
            depths: Depths::new(depths.iter().copied()),
            page_sizes: 0x4020_1000,
            address_bits,
            coherent: true,
            write_needs_read: false,
        }
    }

    #[test]
    fn an_amd_table_asks_for_the_bits_that_there_are_and_any_depth_up_to_theirs() {
        const ALL: [u8; 6] = [1, 2, 3, 4, 5, 6];
        for (deepest, bits, asked, bits_asked) in [
            (4, 32, 3, 32),
            (6, 32, 3, 32),
            (4, 39, 3, 39),
            (4, 40, 4, 40),
            (6, 40, 4, 40),
            (6, 47, 4, 47),
            (4, 48, 4, 48),
            // Nobody needs more.
            (5, 57, 4, 48),
            (6, 64, 4, 48),
        ] {
            let narrowed = DomainTable::narrow(&unit(Walks::AmdV1, &ALL[..deepest], bits));
            let expected = unit(Walks::AmdV1, &ALL[..asked], bits_asked);
            assert_eq!(narrowed, Ok(expected), "{bits} bits, {deepest} levels");
        }
    }

    #[test]
    fn a_second_stage_asks_for_the_one_depth_that_has_the_bits_or_else_the_deepest() {
        for (depths, bits, depth, bits_asked) in [
            (&[3, 4][..], 32, 3, 32),
            (&[3, 4], 39, 3, 39),
            (&[3, 4], 40, 4, 40),
            (&[3, 4, 5], 48, 4, 48),
            (&[4, 5], 39, 4, 39),
            // The table has fewer bits than the unit.
            (&[3], 40, 3, 39),
            (&[3, 4, 5], 57, 4, 48),
            // It has more than anybody needs, for want of another.
            (&[5], 57, 5, 57),
            (&[5], 48, 5, 48),
        ] {
            let narrowed = DomainTable::narrow(&unit(Walks::SecondStage, depths, bits));
            let expected = unit(Walks::SecondStage, &[depth], bits_asked);
            assert_eq!(narrowed, Ok(expected), "{bits} bits, {depths:?} levels");
        }
        for depths in [&[][..], &[1, 2], &[6]] {
            let none = DomainTable::narrow(&unit(Walks::SecondStage, depths, 48));
            assert_eq!(none, Err(Mismatch::Depth), "{depths:?}");
        }
    }

    #[test]
    fn what_else_units_can_stays_as_it_is() {
        for (walks, depths) in [(Walks::SecondStage, &[3][..]), (Walks::AmdV1, &[1, 2, 3])] {
            let poor = Abilities {
                page_sizes: 0x1000,
                coherent: false,
                write_needs_read: true,
                ..unit(walks, depths, 39)
            };
            assert_eq!(DomainTable::narrow(&poor), Ok(poor));
        }
    }

    #[test]
    fn the_table_has_the_depth_that_was_asked_for_or_grows_up_to_it() {
        for (walks, depths, bits, levels) in [
            (Walks::SecondStage, &[3][..], 39, 3),
            (Walks::SecondStage, &[5], 57, 5),
            (Walks::AmdV1, &[1, 2, 3, 4], 40, 3),
        ] {
            let mut frames = FakeFrames::new(8);
            let abilities = unit(walks, depths, bits);
            let mut table = DomainTable::new(&mut frames, &abilities).unwrap();
            assert_eq!(table.levels(), levels);
            let (last, page) = ((1 << bits) - 4096, 0x5000);
            let memory = [Segment { start: PhysAddr::new(page), bytes: 4096 }];
            table.map(&mut frames, Iova::new(last), &memory, Access::ReadWrite).unwrap();
            assert_eq!(usize::from(table.levels()), depths.len().max(depths[0].into()));
            let mut retired = Vec::new();
            table.destroy(&mut frames, &mut retired);
        }
    }
}
