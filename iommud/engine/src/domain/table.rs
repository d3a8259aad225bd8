//! The page table of a domain, in whichever layout its units walk.

use alloc::vec::Vec;

use dma_types::{Access, Iova, PhysAddr};

use crate::amdvi::page_table::AmdV1;
use crate::platform::{Segment, TableFrames};
use crate::table::{MapError, PageTable, Translation, UnmapError, Unmapped};
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
}

/// Calls the method of whichever table it is.
macro_rules! each {
    ($table:expr, $inner:ident => $call:expr) => {
        match $table {
            DomainTable::SecondStage($inner) => $call,
            DomainTable::AmdV1($inner) => $call,
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
        }
    }

    /// An empty table that asks for no more than these abilities, which [`narrow`](Self::narrow) gave.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfFrames`].
    pub fn new(frames: &mut impl TableFrames, abilities: &Abilities) -> Result<Self, MapError> {
        let Abilities { page_sizes, coherent, .. } = *abilities;
        if abilities.walks == Walks::AmdV1 {
            let deepest = abilities.depths.iter().next_back().unwrap_or(1);
            return PageTable::new(AmdV1::new(deepest, page_sizes), frames).map(Self::AmdV1);
        }
        let width = abilities.depths.iter().next().and_then(AddressWidth::from_levels);
        let width = width.unwrap_or(AddressWidth::Bits48);
        let format = SecondStage::new(width, page_sizes, coherent);
        PageTable::new(format, frames).map(Self::SecondStage)
    }

    /// Its root. It changes when the table grows.
    pub fn root(&self) -> PhysAddr {
        each!(self, table => table.root())
    }

    /// How many levels it has.
    pub fn levels(&self) -> u8 {
        each!(self, table => table.levels())
    }

    /// See [`PageTable::map`].
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed.
    pub fn map(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        access: Access,
    ) -> Result<Touched, MapError> {
        each!(self, table => table.map(frames, iova, memory, access))
    }

    /// See [`PageTable::unmap`].
    ///
    /// # Errors
    ///
    /// [`UnmapError`], with nothing changed.
    pub fn unmap(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Unmapped, UnmapError> {
        each!(self, table => table.unmap(frames, iova, bytes, retired))
    }

    /// See [`PageTable::translate`].
    pub fn translate(&self, frames: &impl TableFrames, iova: Iova) -> Option<Translation> {
        each!(self, table => table.translate(frames, iova))
    }

    /// See [`PageTable::destroy`].
    pub fn destroy(self, frames: &mut impl TableFrames, retired: &mut Vec<PhysAddr>) {
        each!(self, table => table.destroy(frames, retired));
    }
}
