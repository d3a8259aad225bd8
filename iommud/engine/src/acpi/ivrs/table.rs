//! The whole table.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;

use dma_types::{PciAddress, PhysAddr};
use thiserror::Error;

use super::entry::{self, EntryFault};
use super::error::IvrsError;
use super::info::IvInfo;
use super::kind::{BlockKind, IvhdKind, IvmdKind};
use super::memory::{Ivmd, IvmdFault};
use super::raw::{RawBlock, RawIvhd, RawIvmd, RawIvrs, RawRichIvhd};
use super::unit::{Ivhd, Reported};
use crate::acpi::UnitFault;
use crate::acpi::sdt::Sdt;
use crate::acpi::walk::Entry;

/// The signature of the table.
pub const SIGNATURE: [u8; 4] = *b"IVRS";

/// An I/O Virtualization Reporting Structure, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ivrs {
    /// Whether the bytes of the table add up to zero. A table with a wrong sum is used all the same; see
    /// [`Sdt::checksum_valid`].
    pub checksum_valid: bool,
    /// What all units have in common.
    pub info: IvInfo,
    /// The units, in the order of the table. There may be none.
    pub units: Vec<Ivhd>,
    /// The reserved memory, in the order of the table.
    pub memory: Vec<Ivmd>,
    /// What is not used, for it makes no sense, in the order of the table.
    pub refused: Vec<Refused>,
    /// What is not used, for the engine has no need of it or does not know it, in the order of the table.
    pub skipped: Vec<Skipped>,
}

/// A part of the table that is not used, for it makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where it starts, in bytes from the start of the table.
    pub offset: usize,
    /// What it is, and why it is not used.
    pub refusal: Refusal,
}

/// What is refused, and why. It prints as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A unit. Its devices are not confined.
    #[error("an IOMMU (IVHD) is not used: {1}")]
    Unit(Ivhd, UnitFault),
    /// Reserved memory. Its devices cannot reach it.
    #[error("a reserved memory block (IVMD) is not used: {1}")]
    Memory(Ivmd, IvmdFault),
    /// A device entry of a unit, which is used without it.
    #[error("a device entry is not used: {0}")]
    Entry(EntryFault),
}

/// A block or device entry that was passed over by its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it starts, in bytes from the start of the table.
    pub offset: usize,
    /// What it is.
    pub what: SkippedWhat,
}

/// What was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkippedWhat {
    /// A block that describes a unit which a richer block describes too.
    Poorer(IvhdKind),
    /// A block of a type that is not known.
    Block(u8),
    /// A device entry of a type that is not known.
    Entry(u8),
}

impl fmt::Display for SkippedWhat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poorer(kind) => BlockKind::Unit(*kind).fmt(f),
            Self::Block(code) => BlockKind::Unknown(*code).fmt(f),
            Self::Entry(code) => write!(f, "device entry of type {code:02X}h"),
        }
    }
}

/// A block that describes a unit, with its device entries.
struct UnitBlock {
    offset: usize,
    unit: Ivhd,
    refused: Vec<(usize, EntryFault)>,
    skipped: Vec<(usize, u8)>,
}

impl Ivrs {
    /// Reads a table. Bytes after its end are left out.
    ///
    /// # Errors
    ///
    /// [`IvrsError`], if any length in it is wrong; the [module](super) says why that refuses all of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, IvrsError> {
        let sdt = Sdt::parse(bytes, SIGNATURE)?;
        let (raw, mut blocks) = sdt.front::<RawIvrs>()?;
        let mut ivrs = Self {
            checksum_valid: sdt.checksum_valid,
            info: IvInfo::from_bits(raw.info.get()),
            units: Vec::new(),
            memory: Vec::new(),
            refused: Vec::new(),
            skipped: Vec::new(),
        };
        let mut unit_blocks = Vec::new();
        while let Some(block) = blocks.next::<RawBlock>()? {
            match BlockKind::from(block.head.kind) {
                BlockKind::Unit(kind) => unit_blocks.push(parse_unit(kind, &block)?),
                BlockKind::Memory(kind) => ivrs.take_memory(kind, &block)?,
                BlockKind::Unknown(code) => ivrs.skip(block.offset, SkippedWhat::Block(code)),
            }
        }
        ivrs.take_units(unit_blocks);
        ivrs.refused.sort_by_key(|refused| refused.offset);
        ivrs.skipped.sort_by_key(|skipped| skipped.offset);
        Ok(ivrs)
    }

    fn take_memory(
        &mut self,
        kind: IvmdKind,
        block: &Entry<'_, RawBlock>,
    ) -> Result<(), IvrsError> {
        let (raw, _) = block.fields::<RawIvmd>()?;
        match Ivmd::judged(block.offset, kind, raw, self.info.physical_size()) {
            (memory, Ok(())) => self.memory.push(memory),
            (memory, Err(fault)) => self.refuse(block.offset, Refusal::Memory(memory, fault)),
        }
        Ok(())
    }

    /// Takes the units, each from its richest block.
    fn take_units(&mut self, blocks: Vec<UnitBlock>) {
        let mut richest: BTreeMap<PciAddress, (IvhdKind, PhysAddr)> = BTreeMap::new();
        for UnitBlock { unit, .. } in &blocks {
            let here = (unit.kind, unit.registers);
            let best = richest.entry(unit.address()).or_insert(here);
            if best.0 < unit.kind {
                *best = here;
            }
        }
        let (mut functions, mut bases) = (BTreeSet::new(), BTreeSet::new());
        for UnitBlock { offset, unit, refused, skipped } in blocks {
            let function = unit.address();
            let (kind, base) =
                richest.get(&function).copied().unwrap_or((unit.kind, unit.registers));
            if unit.kind < kind && unit.registers == base {
                self.skip(offset, SkippedWhat::Poorer(unit.kind));
                continue;
            }
            for (offset, fault) in refused {
                self.refuse(offset, Refusal::Entry(fault));
            }
            for (offset, code) in skipped {
                self.skip(offset, SkippedWhat::Entry(code));
            }
            let judged = if unit.kind < kind {
                Err(UnitFault::Contradicted { function, base })
            } else if !functions.insert(function) {
                Err(UnitFault::SameFunction(function))
            } else {
                unit.judge().and_then(|()| {
                    let first = bases.insert(unit.registers);
                    if first { Ok(()) } else { Err(UnitFault::Twice(unit.registers)) }
                })
            };
            match judged {
                Ok(()) => self.units.push(unit),
                Err(fault) => self.refuse(offset, Refusal::Unit(unit, fault)),
            }
        }
    }

    fn refuse(&mut self, offset: usize, refusal: Refusal) {
        self.refused.push(Refused { offset, refusal });
    }

    fn skip(&mut self, offset: usize, what: SkippedWhat) {
        self.skipped.push(Skipped { offset, what });
    }
}

fn parse_unit(kind: IvhdKind, block: &Entry<'_, RawBlock>) -> Result<UnitBlock, IvrsError> {
    let (raw, reported, entries) = match kind {
        IvhdKind::Type10 => {
            let (raw, entries) = block.fields::<RawIvhd>()?;
            (raw, Reported::summary(raw), entries)
        }
        IvhdKind::Type11 | IvhdKind::Type40 => {
            let (raw, entries) = block.fields::<RawRichIvhd>()?;
            (&raw.ivhd, Reported::registers(raw), entries)
        }
    };
    let entry::Parsed { sound, refused, skipped } = entry::parse_all(entries)?;
    let unit = Ivhd::new(block.offset, kind, raw, reported, sound);
    Ok(UnitBlock { offset: block.offset, unit, refused, skipped })
}

#[cfg(test)]
#[path = "tests/table.rs"]
mod tests;
