//! The machine's IOMMU, whoever made it, looked at and turned off by hand; or that there is none.

use dma_types::SourceId;
use iommu_engine::platform::Platform;

use crate::cases::{amdvi, vtd};
use crate::harness::Outcome;

/// The machine's first unit, if it has one.
#[derive(Clone, Copy, Debug)]
pub enum Hardware {
    /// Intel's.
    Vtd(vtd::by_hand::Unit),
    /// AMD's.
    Amdvi(amdvi::by_hand::Unit),
    /// There is none.
    None,
}

impl Hardware {
    /// Finds it through the firmware's table, whichever there is.
    pub fn find(platform: &mut impl Platform) -> Outcome<Self> {
        if platform.acpi_table(*b"IVRS")?.is_some() {
            return Ok(Self::Amdvi(amdvi::by_hand::Unit::find(platform)?));
        }
        if platform.acpi_table(*b"DMAR")?.is_some() {
            return Ok(Self::Vtd(vtd::by_hand::Unit::find(platform)?));
        }
        Ok(Self::None)
    }

    /// Whether it translates.
    pub fn is_on(&self, platform: &mut impl Platform) -> bool {
        match self {
            Self::Vtd(unit) => unit.status(platform).translation(),
            Self::Amdvi(unit) => unit.is_on(platform),
            Self::None => false,
        }
    }

    /// Turns translation off, and forgets what was blocked.
    pub fn turn_off(&self, platform: &mut impl Platform) -> Outcome {
        match self {
            Self::Vtd(unit) => {
                unit.turn_off(platform)?;
                while unit.take_fault(platform).is_some() {}
            }
            Self::Amdvi(unit) => {
                unit.turn_off(platform)?;
                unit.take_target_abort(platform);
            }
            Self::None => {}
        }
        Ok(())
    }

    /// Whether its tables let this device reach anything.
    pub fn leads_somewhere(&self, platform: &mut impl Platform, source: SourceId) -> Outcome<bool> {
        match self {
            Self::Vtd(unit) => unit.leads_somewhere(platform, source),
            Self::Amdvi(unit) => unit.leads_somewhere(platform, source),
            Self::None => Ok(true),
        }
    }

    /// Whether memory can be mapped for writing and not for reading (rule R6).
    pub fn can_map_write_only(&self) -> bool {
        match self {
            Self::Vtd(unit) => unit.capabilities.zero_length_reads(),
            Self::Amdvi(_) => true,
            Self::None => false,
        }
    }

    /// Whether it tells each transfer that it blocks once, with address and direction.
    ///
    /// QEMU's AMD-Vi up to version 10 tells of none. Version 11 tells of each four bytes, with a wrong direction and
    /// without the address: only that it was blocked, and whose it was. There the data must show the rest.
    pub fn tells_what_it_blocks(&self) -> bool {
        matches!(self, Self::Vtd(_))
    }
}
