//! Which of the protocol's errors the engine's are.

use iommu_engine::error::EngineError;
use iommu_engine::iova::IovaError;
use iommu_engine::table::MapError;
use libdma::Error;

/// What a client is told of an engine's error. Only what it can act on: addresses and frames are the
/// daemon's business.
pub fn to_client(error: EngineError) -> Error {
    match error {
        EngineError::NoSuchDevice(_) | EngineError::NotCovered(_) => Error::NoSuchDevice,
        EngineError::GroupRefused(..)
        | EngineError::UnitNotWorking(_)
        | EngineError::UnitFailed => Error::UnitFailed,
        EngineError::UnitStarting(_) | EngineError::NotForgotten => Error::NotReady,
        EngineError::AlreadyAttached(_)
        | EngineError::GroupElsewhere(..)
        | EngineError::DomainInUse(_) => Error::DeviceBusy,
        EngineError::NotAttached(_) | EngineError::NoSuchDomain(_) => Error::SessionEnded,
        EngineError::Blocked(_) => Error::Quarantined,
        EngineError::NotBlocked(_) => Error::NotQuarantined,
        EngineError::IncompatibleDomain(..) | EngineError::ReservedNotInDomain(_) => {
            Error::IncompatibleDomain
        }
        EngineError::NoDevice => Error::BadValue,
        EngineError::OutOfDomainIds | EngineError::TablesNotPaid => Error::QuotaExceeded,
        EngineError::OutOfFrames | EngineError::Map(MapError::OutOfFrames) => Error::OutOfMemory,
        EngineError::InPieces(_) | EngineError::Misaligned(_) => Error::NotContiguous,
        EngineError::Unsuitable(_) | EngineError::BeyondLimit { .. } => Error::NoAddressSpace,
        EngineError::Elsewhere(_) | EngineError::NoIommu => Error::NoIommu,
        EngineError::OutsideAperture { .. } => Error::OutsideAperture,
        EngineError::OutOfRun => Error::OutOfBuffer,
        EngineError::NotRegisters(..) => Error::NotRegisters,
        EngineError::NotMapped | EngineError::Unmap(_) => Error::NotMapped,
        EngineError::Map(_) => Error::AlreadyMapped,
        EngineError::Iova(error) => match error {
            IovaError::ZeroSize => Error::ZeroSize,
            IovaError::NotPages { .. }
            | IovaError::BadAlignment { .. }
            | IovaError::NotPageStart { .. } => Error::BadAlignment,
            IovaError::OutsideSpace { .. } => Error::Overflow,
            IovaError::NoRoom { .. } | IovaError::NoRoomUnderLimit { .. } => Error::NoAddressSpace,
            IovaError::Reserved { .. } => Error::AddressReserved,
            _ => Error::AlreadyMapped,
        },
    }
}
