//! The whole table.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use bitfield_struct::bitfield;
use thiserror::Error;

use super::error::DmarError;
use super::kind::StructureKind;
use super::raw::{RawDmar, RawDrhd, RawRmrr, RawStructure};
use super::reserved::Rmrr;
use super::scope::{self, DeviceScope, ScopeFault};
use super::unit::Drhd;
use crate::acpi::sdt::Sdt;
use crate::acpi::walk::{Entries, Entry};
use crate::acpi::{RegionFault, UnitFault};

/// The signature of the table (8.1).
pub const SIGNATURE: [u8; 4] = *b"DMAR";

/// A DMA Remapping Reporting table (8.1), understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dmar {
    /// Whether the bytes of the table add up to zero. A table with a wrong sum is used all the same; see
    /// [`Sdt::checksum_valid`].
    pub checksum_valid: bool,
    /// How many bits the addresses have that DMA can reach.
    pub host_address_width: u8,
    /// What firmware asks for.
    pub flags: DmarFlags,
    /// The remapping units, in the order of the table. There may be none.
    pub units: Vec<Drhd>,
    /// The reserved memory regions, in the order of the table.
    pub reserved: Vec<Rmrr>,
    /// What is not used, for it makes no sense.
    pub refused: Vec<Refused>,
    /// What is not used, for the engine has no need of it or does not know it.
    pub skipped: Vec<Skipped>,
}

/// Flags of the table (8.1).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct DmarFlags {
    /// INTR_REMAP, bit 0: the platform can remap interrupts.
    #[bits(access = RO)]
    pub interrupt_remapping: bool,
    /// X2APIC_OPT_OUT, bit 1: firmware asks that x2APIC mode stay off.
    #[bits(access = RO)]
    pub x2apic_opt_out: bool,
    /// DMA_CTRL_PLATFORM_OPT_IN_FLAG, bit 2: firmware kept DMA in check and asks the system to do so.
    #[bits(access = RO)]
    pub dma_control_opt_in: bool,
    #[bits(5)]
    __: u8,
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
    #[error("a remapping unit (DRHD) is not used: {1}")]
    Unit(Drhd, UnitFault),
    /// A reserved memory region. Its devices cannot reach it.
    #[error("a reserved memory region (RMRR) is not used: {1}")]
    Region(Rmrr, RegionFault),
    /// A device scope of a unit or region, which is used without it.
    #[error("a device scope is not used: {0}")]
    Scope(ScopeFault),
}

/// A structure that was passed over by its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where it starts, in bytes from the start of the table.
    pub offset: usize,
    /// What it is.
    pub kind: StructureKind,
}

impl Dmar {
    /// Reads a table. Bytes after its end are left out.
    ///
    /// # Errors
    ///
    /// [`DmarError`], if any length in it is wrong; the [module](super) says why that refuses all of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DmarError> {
        let sdt = Sdt::parse(bytes, SIGNATURE)?;
        let (raw, mut structures) = sdt.front::<RawDmar>()?;
        let mut dmar = Self {
            checksum_valid: sdt.checksum_valid,
            host_address_width: raw.host_address_width.saturating_add(1),
            flags: DmarFlags::from_bits(raw.flags),
            units: Vec::new(),
            reserved: Vec::new(),
            refused: Vec::new(),
            skipped: Vec::new(),
        };
        let mut bases = BTreeSet::new();
        while let Some(structure) = structures.next::<RawStructure>()? {
            let offset = structure.offset;
            match StructureKind::from(structure.head.kind.get()) {
                StructureKind::Unit => {
                    let unit = dmar.parse_unit(&structure)?;
                    let judged = unit.judge().and_then(|()| {
                        let first = bases.insert(unit.registers);
                        if first { Ok(()) } else { Err(UnitFault::Twice(unit.registers)) }
                    });
                    match judged {
                        Ok(()) => dmar.units.push(unit),
                        Err(fault) => dmar.refuse(offset, Refusal::Unit(unit, fault)),
                    }
                }
                StructureKind::ReservedMemory => {
                    let region = dmar.parse_region(&structure)?;
                    match region.judge(dmar.host_address_width) {
                        Ok(()) => dmar.reserved.push(region),
                        Err(fault) => dmar.refuse(offset, Refusal::Region(region, fault)),
                    }
                }
                kind => dmar.skipped.push(Skipped { offset, kind }),
            }
        }
        Ok(dmar)
    }

    fn parse_unit(&mut self, structure: &Entry<'_, RawStructure>) -> Result<Drhd, DmarError> {
        let (raw, scopes) = structure.fields::<RawDrhd>()?;
        Ok(Drhd::new(structure.offset, raw, self.parse_scopes(scopes)?))
    }

    fn parse_region(&mut self, structure: &Entry<'_, RawStructure>) -> Result<Rmrr, DmarError> {
        let (raw, scopes) = structure.fields::<RawRmrr>()?;
        Ok(Rmrr::new(structure.offset, raw, self.parse_scopes(scopes)?))
    }

    /// The scopes that make sense; the others are refused.
    fn parse_scopes(&mut self, entries: Entries<'_>) -> Result<Vec<DeviceScope>, DmarError> {
        let mut sound = Vec::new();
        for (offset, parsed) in scope::parse_all(entries)? {
            match parsed {
                Ok(scope) => sound.push(scope),
                Err(fault) => self.refuse(offset, Refusal::Scope(fault)),
            }
        }
        Ok(sound)
    }

    fn refuse(&mut self, offset: usize, refusal: Refusal) {
        self.refused.push(Refused { offset, refusal });
    }
}

#[cfg(test)]
#[path = "tests/table.rs"]
mod tests;
