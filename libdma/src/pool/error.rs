//! Why a block is not taken back.

use thiserror::Error as ThisError;

use crate::io_address::WrongDevice;
use crate::protocol::Error;

/// Why a block is not taken back by its address. The pool is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum NotTaken {
    /// No block of the pool starts there.
    #[error("no block of the pool starts at this address")]
    NoBlock,
    /// The block is free: it was given back already, or has not been given out.
    #[error("the block at this address is free: it was given back already")]
    Free,
    /// The block was not left to the device: a [`PoolBlock`](super::PoolBlock) stands for it.
    #[error("the block at this address was not left to the device: somebody holds it")]
    Held,
    /// The address is of another device than the pool, or of a domain.
    #[error(transparent)]
    WrongDevice(#[from] WrongDevice),
}

/// For functions that fail with an [`Error`]: [`Error::NoSuchBlock`], [`Error::BlockFree`], [`Error::BlockHeld`] and
/// [`Error::WrongOwner`].
///
/// ```
/// use libdma::{Device, Error};
///
/// fn complete(device: &Device) -> Result<(), Error> {
///     let pool = device.pool("commands").bytes(64)?;
///     let address = pool.alloc()?.into_address();
///     pool.free(address)?;
///     // Twice is once too often.
///     pool.free(address)?;
///     Ok(())
/// }
/// # let machine = simulated::Machine::vtd();
/// assert_eq!(complete(&machine.open()), Err(Error::BlockFree));
/// ```
impl From<NotTaken> for Error {
    fn from(why: NotTaken) -> Self {
        match why {
            NotTaken::NoBlock => Self::NoSuchBlock,
            NotTaken::Free => Self::BlockFree,
            NotTaken::Held => Self::BlockHeld,
            NotTaken::WrongDevice(why) => why.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn each_reason_is_the_error_that_says_most_of_it() {
        for (why, error) in [
            (NotTaken::NoBlock, Error::NoSuchBlock),
            (NotTaken::Free, Error::BlockFree),
            (NotTaken::Held, Error::BlockHeld),
        ] {
            assert_eq!(Error::from(why), error, "{why}");
            assert_eq!(error.to_string(), why.to_string());
        }
    }
}
