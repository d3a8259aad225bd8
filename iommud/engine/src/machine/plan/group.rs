//! A group of devices, and who translates for it.

use alloc::vec::Vec;

use dma_types::PciAddress;
use thiserror::Error;

use super::PlannedDevice;
use crate::completion::UnitId;
use crate::machine::reserved::ReservedRange;
use crate::topology;

/// A group of functions that can only be attached together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedGroup {
    /// The functions, how they sign, and why they are one group.
    pub topology: topology::Group,
    /// The unit that translates for all of them, `None` if none does, or why they cannot be attached.
    pub unit: Result<Option<UnitId>, GroupFault>,
    /// The memory that firmware reserves for any of them.
    pub reserved: Vec<ReservedRange>,
}

/// The unit that translates for all of these, bridges and units aside.
pub(super) fn common_unit(members: &[&PlannedDevice]) -> Result<Option<UnitId>, GroupFault> {
    let mut endpoints = members.iter().filter(|device| device.is_endpoint());
    let Some(first) = endpoints.next() else { return Ok(None) };
    let Some(other) = endpoints.find(|other| other.unit != first.unit) else {
        return Ok(first.unit);
    };
    let (first_at, other_at) = (first.function.address, other.function.address);
    Err(match (first.unit, other.unit) {
        (None, _) => GroupFault::PartlyCovered { covered: other_at, uncovered: first_at },
        (_, None) => GroupFault::PartlyCovered { covered: first_at, uncovered: other_at },
        (Some(_), Some(_)) => GroupFault::SeveralUnits(first_at, other_at),
    })
}

/// A group cannot be attached: some of its members would be confined and others not, or elsewhere, and
/// each can reach what the others do. They are attached to nothing, and reach nothing where a unit
/// translates for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GroupFault {
    /// Different units translate for its members.
    #[error("{0} and {1} cannot be told apart, and are behind different IOMMUs")]
    SeveralUnits(PciAddress, PciAddress),
    /// No unit translates for some of its members.
    #[error("{covered} and {uncovered} cannot be told apart, and no IOMMU covers {uncovered}")]
    PartlyCovered {
        /// A member that a unit translates for.
        covered: PciAddress,
        /// One that none does.
        uncovered: PciAddress,
    },
}
