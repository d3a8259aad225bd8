//! Why the engine could not do what it was asked.

use dma_types::{Iova, PciAddress, PhysAddr};
use thiserror::Error;

use crate::acpi::dmar::DmarError;
use crate::acpi::ivrs::IvrsError;
use crate::domain::DomainKey;
use crate::iova::{IovaError, IovaRange};
use crate::ledger::LedgerError;
use crate::machine::plan::GroupFault;
use crate::platform::PlatformError;
use crate::table::{MapError, UnmapError};
use crate::unit::Mismatch;

/// Why the engine could not start at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// The firmware has no table that describes an IOMMU.
    #[error(
        "the firmware describes no IOMMU: it has none, or it is switched off in the firmware's setup; to serve \
         drivers without any protection, say `without_iommu: unprotected` in the policy"
    )]
    NoIommu,
    /// It has one that cannot be trusted.
    #[error("the firmware's DMAR table cannot be used: {0}")]
    Dmar(#[from] DmarError),
    /// It has one that cannot be trusted, on a machine of AMD's.
    #[error("the firmware's IVRS table cannot be used: {0}")]
    Ivrs(#[from] IvrsError),
    /// It names more units than any machine has.
    #[error("the firmware's table names {0} IOMMUs, more than any machine has")]
    TooManyUnits(usize),
    /// Something of the platform failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The ledger could not be made.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why the engine could not do what it was asked. Nothing has changed (rule R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// No function of this address was found.
    #[error("there is no PCI function {0}")]
    NoSuchDevice(PciAddress),
    /// No IOMMU translates for it.
    #[error("no IOMMU covers {0}")]
    NotCovered(PciAddress),
    /// Its group cannot be attached.
    #[error("{0} cannot be confined: {1}")]
    GroupRefused(PciAddress, GroupFault),
    /// The unit that covers it is not working.
    #[error("the IOMMU in front of {0} was refused or has failed")]
    UnitNotWorking(PciAddress),
    /// The unit that covers it does not translate yet.
    #[error("the IOMMU in front of {0} is still starting")]
    UnitStarting(PciAddress),
    /// A unit that the domain's devices are behind has failed.
    #[error("an IOMMU in front of the domain's devices has failed")]
    UnitFailed,
    /// It is attached to a domain already.
    #[error("{0} is attached to a domain already")]
    AlreadyAttached(PciAddress),
    /// It cannot be kept apart from a device that is attached to another domain.
    #[error("{0} is of one group with {1}, which is attached to another domain")]
    GroupElsewhere(PciAddress, PciAddress),
    /// It is attached to no domain.
    #[error("{0} is attached to no domain")]
    NotAttached(PciAddress),
    /// The domain does not exist.
    #[error("there is no domain {}", .0.0)]
    NoSuchDomain(DomainKey),
    /// It is kept from everything, or another member of its group is for whose sake they all are.
    #[error("{0} is blocked")]
    Blocked(PciAddress),
    /// It is not.
    #[error("{0} is not blocked")]
    NotBlocked(PciAddress),
    /// Devices are attached to it.
    #[error("devices are attached to domain {}", .0.0)]
    DomainInUse(DomainKey),
    /// The unit cannot walk the domain's table.
    #[error("the IOMMU in front of {0} cannot walk this domain's tables: {1}")]
    IncompatibleDomain(PciAddress, Mismatch),
    /// The domain is not one for this device, which needs what firmware reserves for it.
    #[error("the domain does not hold the memory that firmware reserves for {0}")]
    ReservedNotInDomain(PciAddress),
    /// A domain is for one device at least.
    #[error("no device is named")]
    NoDevice,
    /// The unit has no domain id left.
    #[error("the IOMMU has no domain id left")]
    OutOfDomainIds,
    /// The tables would be more than who pays for them may have.
    #[error("tables would be more than may be paid for")]
    TablesNotPaid,
    /// No frame for a table, or for the ledger.
    #[error("there is no memory for tables")]
    OutOfFrames,
    /// The I/O address could not be given.
    #[error(transparent)]
    Iova(#[from] IovaError),
    /// The mapping could not be made.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The mapping could not be taken away.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
    /// There are domains only where there is an IOMMU.
    #[error("the machine has no IOMMU, and its devices are in no domains")]
    NoIommu,
    /// The range is not exactly one mapping.
    #[error("the range is not exactly one mapping")]
    NotMapped,
    /// Without an IOMMU a device sees memory as it is, and this is in several pieces.
    #[error("the memory is in {0} pieces, and there is no IOMMU to make it one")]
    InPieces(usize),
    /// Without an IOMMU memory is at its own address, which is not one for this device.
    #[error("the memory is at {0}, beyond the device's limit, and no IOMMU can move it")]
    Unsuitable(PhysAddr),
    /// The same, and it is not aligned as it was to be.
    #[error("the memory is at {0}, which is not aligned so, and no IOMMU can move it")]
    Misaligned(PhysAddr),
    /// The same, at an I/O address that was chosen.
    #[error("the memory is at {0}, and there is no IOMMU to let it be seen elsewhere")]
    Elsewhere(PhysAddr),
    /// The chosen addresses are not of those that the domain was made for.
    #[error("{range} is not within the domain's aperture, {aperture}")]
    OutsideAperture {
        /// What was asked for.
        range: IovaRange,
        /// What there is.
        aperture: IovaRange,
    },
    /// The chosen addresses are not ones that the device can put on its bus.
    #[error("{range} ends beyond {limit}, the highest I/O address of the device")]
    BeyondLimit {
        /// What was asked for.
        range: IovaRange,
        /// The device's limit.
        limit: Iova,
    },
    /// What was mapped at the chosen addresses has been unmapped, and units still have to forget it (rule R2).
    #[error("what was unmapped there has not been forgotten yet")]
    NotForgotten,
    /// No BAR of this number is known to be registers of the device, and nothing else.
    #[error("BAR {1} of {0} is not known to be memory of whole pages in which nothing else lies")]
    NotRegisters(PciAddress, u8),
    /// The range reaches beyond the memory that it is of.
    #[error("the range reaches beyond the end of the buffer")]
    OutOfRun,
}

impl From<LedgerError> for EngineError {
    fn from(_: LedgerError) -> Self {
        // A ledger that is being written fails in one way only.
        Self::OutOfFrames
    }
}
