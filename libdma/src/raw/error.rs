//! What can be wrong about an address.

use dma_types::Access;
use thiserror::Error as ThisError;

use crate::io_address::WrongDevice;
use crate::protocol::Error;

/// Why something was not done with an address. Nothing has changed (rule R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum RawError {
    /// Nothing is mapped there.
    #[error("nothing is mapped at this I/O address")]
    NotMapped,
    /// What is mapped there has another length, or ends before the range does.
    #[error("what is mapped at this I/O address has {mapped} bytes, and not those that were named")]
    WrongSize {
        /// How long it is.
        mapped: u64,
    },
    /// What is mapped there was mapped in another direction.
    #[error(
        "what is mapped at this I/O address was mapped for the device as {mapped}, and not as was said"
    )]
    WrongDirection {
        /// What the device may do with it.
        mapped: Access,
    },
    /// It is the device's: it has to be synced for the CPU first.
    #[error("what is mapped at this I/O address is the device's: sync it for the CPU first")]
    OfDevice,
    /// The address is of another device than the stream, or of a domain.
    #[error(transparent)]
    WrongDevice(#[from] WrongDevice),
    /// Memory could not be had, or mapped, or unmapped.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// For functions that fail with an [`Error`]: [`Error::NotMapped`] where nothing is mapped, or not exactly that range;
/// [`Error::NotPermitted`] for another direction; [`Error::OfDevice`], [`Error::WrongOwner`]; and what iommud answered.
///
/// ```
/// use libdma::{Access, Device, Error};
///
/// fn receive(device: &Device, packet: &mut [u8]) -> Result<(), Error> {
///     let mut stream = device.raw_stream("rx");
///     let address = stream.map_zeroes(2048, Access::Write)?;
///     // It was not synced for the CPU, nor unmapped.
///     stream.cpu_read(address, packet)?;
///     Ok(())
/// }
/// # let machine = simulated::Machine::vtd();
/// assert_eq!(receive(&machine.open(), &mut [0; 64]), Err(Error::OfDevice));
/// ```
impl From<RawError> for Error {
    fn from(why: RawError) -> Self {
        match why {
            RawError::NotMapped | RawError::WrongSize { .. } => Self::NotMapped,
            RawError::WrongDirection { .. } => Self::NotPermitted,
            RawError::OfDevice => Self::OfDevice,
            RawError::WrongDevice(why) => why.into(),
            RawError::Failed(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_the_error_that_says_most_of_it() {
        for (why, error) in [
            (RawError::NotMapped, Error::NotMapped),
            (RawError::WrongSize { mapped: 64 }, Error::NotMapped),
            (RawError::WrongDirection { mapped: Access::Read }, Error::NotPermitted),
            (RawError::OfDevice, Error::OfDevice),
            (RawError::Failed(Error::QuotaExceeded), Error::QuotaExceeded),
        ] {
            assert_eq!(Error::from(why), error, "{why}");
        }
    }
}
