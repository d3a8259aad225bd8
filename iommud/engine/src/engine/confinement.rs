//! What keeps devices from memory that is not theirs.

use dma_types::PciAddress;
use thiserror::Error;

use super::Engine;
use crate::unit::Unusable;

/// What keeps a function from memory that is not its own, or why nothing does. It prints as a clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Confinement {
    /// It reaches what is mapped for it, and nothing else.
    #[error("it reaches what is mapped for it")]
    Confined,
    /// The policy lets it reach all memory while nobody holds it.
    #[error("it reaches all memory, for the policy says so")]
    LeftOpen,
    /// The policy leaves the unit that covers it alone.
    #[error("it reaches everything, for the IOMMU in front of it is not used")]
    UnitNotUsed,
    /// The unit that covers it cannot be used. Its bus mastering was turned off, as far as it was known then.
    #[error(
        "it reaches everything once it masters the bus, for the IOMMU in front of it cannot be used"
    )]
    UnitUnusable,
    /// The machine has no IOMMU.
    #[error("it reaches all memory, for this machine has no IOMMU")]
    NoIommu,
    /// No unit covers it.
    #[error("it reaches everything, for no IOMMU covers it")]
    Uncovered,
    /// The unit that covers it has failed, and nobody knows what it still does.
    #[error("nobody knows what it reaches, for the IOMMU in front of it has failed")]
    Unknown,
}

impl Engine {
    /// What keeps a function from memory that is not its own, or why nothing does.
    pub fn confinement(&self, device: PciAddress) -> Confinement {
        if !self.has_iommu() {
            return Confinement::NoIommu;
        }
        let Some(unit) = self.devices.get(&device).and_then(|device| device.unit) else {
            return Confinement::Uncovered;
        };
        let unit = self.units.get(usize::from(unit.0)).map(|slot| &slot.unit);
        match unit {
            Some(Ok(unit)) if unit.has_failed() => Confinement::Unknown,
            Some(Ok(_)) if self.reaches_everything(device) => Confinement::LeftOpen,
            Some(Ok(_)) => Confinement::Confined,
            Some(Err(Unusable::Ignored(_))) => Confinement::UnitNotUsed,
            Some(Err(_)) | None => Confinement::UnitUnusable,
        }
    }

    /// Whether a function is not confined while nobody holds it, because the policy says so.
    pub fn reaches_everything(&self, device: PciAddress) -> bool {
        let attached = self.group(device).and_then(|group| group.attached);
        attached.is_some_and(|key| self.unconfined.contains(&key))
    }
}
