//! Why memory is not declared or released.

use core::fmt;

use thiserror::Error as ThisError;

use super::DeviceMemory;
use crate::protocol::Error;

/// Why a device's own memory is not declared, occupied or released. Nothing has changed (rule R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum DeclareError {
    /// There is some already.
    #[error("the device has memory of its own already: release that first")]
    AlreadyDeclared,
    /// There is none.
    #[error("the device has no memory of its own")]
    NothingDeclared,
    /// Blocks of it live.
    #[error("blocks of the device's own memory are in use: {blocks}")]
    InUse {
        /// How many.
        blocks: usize,
    },
    /// Part of the range is in use or occupied already.
    #[error("part of the range is in use or occupied already")]
    Occupied,
    /// The range reaches beyond the memory.
    #[error("the range reaches beyond the device's own memory")]
    OutOfRange,
    /// The buffer was not mapped when it was allocated.
    #[error("the device does not see the buffer: allocate it with an access")]
    NotMapped,
    /// The buffer is another device's, or of another session.
    #[error("the buffer is of another device, or of another session of this one")]
    WrongDevice,
    /// Start or length is no multiple of 64, or both addresses of the memory are not the same modulo 4096.
    #[error(
        "start and length must be multiples of 64, and the CPU's address the device's modulo 4096"
    )]
    BadAlignment,
    /// There are no bytes, or more than there are addresses.
    #[error("there is no memory of this length at this address")]
    BadLength,
}

/// For functions that fail with an [`Error`]: [`Error::AlreadyDeclared`] where there is memory already,
/// [`Error::DeclaredInUse`] where blocks of it or occupied parts are in the way, [`Error::NothingDeclared`] where there is
/// none; [`Error::NotMapped`] if the device does not see the buffer;
/// [`Error::OutOfBuffer`], [`Error::WrongOwner`], [`Error::BadAlignment`] and [`Error::Overflow`].
///
/// ```
/// use libdma::{Device, Error};
///
/// fn restart(device: &Device) -> Result<(), Error> {
///     device.release_declared_memory()?;
///     Ok(())
/// }
/// # let machine = simulated::Machine::vtd();
/// assert_eq!(restart(&machine.open()), Err(Error::NothingDeclared));
/// ```
impl From<DeclareError> for Error {
    fn from(why: DeclareError) -> Self {
        match why {
            DeclareError::AlreadyDeclared => Self::AlreadyDeclared,
            DeclareError::NothingDeclared => Self::NothingDeclared,
            DeclareError::InUse { .. } | DeclareError::Occupied => Self::DeclaredInUse,
            DeclareError::NotMapped => Self::NotMapped,
            DeclareError::OutOfRange => Self::OutOfBuffer,
            DeclareError::WrongDevice => Self::WrongOwner,
            DeclareError::BadAlignment => Self::BadAlignment,
            DeclareError::BadLength => Self::Overflow,
        }
    }
}

/// Memory was not declared, and here it is again.
#[derive(Debug)]
pub struct NotDeclared {
    /// Why.
    pub error: DeclareError,
    /// The memory.
    pub memory: DeviceMemory,
}

impl fmt::Display for NotDeclared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl core::error::Error for NotDeclared {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The memory is dropped.
impl From<NotDeclared> for Error {
    fn from(refused: NotDeclared) -> Self {
        refused.error.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_the_error_that_says_most_of_it() {
        for (why, error) in [
            (DeclareError::AlreadyDeclared, Error::AlreadyDeclared),
            (DeclareError::InUse { blocks: 1 }, Error::DeclaredInUse),
            (DeclareError::Occupied, Error::DeclaredInUse),
            (DeclareError::NothingDeclared, Error::NothingDeclared),
            (DeclareError::NotMapped, Error::NotMapped),
            (DeclareError::OutOfRange, Error::OutOfBuffer),
            (DeclareError::WrongDevice, Error::WrongOwner),
            (DeclareError::BadAlignment, Error::BadAlignment),
            (DeclareError::BadLength, Error::Overflow),
        ] {
            assert_eq!(Error::from(why), error, "{why}");
        }
    }
}
