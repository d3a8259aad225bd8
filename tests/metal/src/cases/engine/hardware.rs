//! The machine's IOMMU, whoever made it, looked at and turned off by hand.

use dma_types::SourceId;
use iommu_engine::platform::Platform;

use crate::cases::{amdvi, vtd};
use crate::harness::Outcome;

/// The machine's first unit.
#[derive(Clone, Copy, Debug)]
pub enum Hardware {
    /// Intel's.
    Vtd(vtd::by_hand::Unit),
    /// AMD's.
    Amdvi(amdvi::by_hand::Unit),
}

impl Hardware {
    /// Finds it through the firmware's table, whichever there is.
    pub fn find(platform: &mut impl Platform) -> Outcome<Self> {
        Ok(match platform.acpi_table(*b"IVRS")? {
            Some(_) => Self::Amdvi(amdvi::by_hand::Unit::find(platform)?),
            None => Self::Vtd(vtd::by_hand::Unit::find(platform)?),
        })
    }

    /// Whether it translates.
    pub fn is_on(&self, platform: &mut impl Platform) -> bool {
        match self {
            Self::Vtd(unit) => unit.status(platform).translation(),
            Self::Amdvi(unit) => unit.is_on(platform),
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
        }
        Ok(())
    }

    /// Whether its tables let this device reach anything.
    pub fn leads_somewhere(&self, platform: &mut impl Platform, source: SourceId) -> Outcome<bool> {
        match self {
            Self::Vtd(unit) => unit.leads_somewhere(platform, source),
            Self::Amdvi(unit) => unit.leads_somewhere(platform, source),
        }
    }

    /// Whether memory can be mapped for writing and not for reading (rule R6).
    pub fn can_map_write_only(&self) -> bool {
        match self {
            Self::Vtd(unit) => unit.capabilities.zero_length_reads(),
            Self::Amdvi(_) => true,
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
