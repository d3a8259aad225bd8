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
