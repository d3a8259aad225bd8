//! What the device can do wrong, and what can be asked of it wrongly.

use thiserror::Error as ThisError;

use crate::registers::TRANSFER_END;

/// Why the device did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum Error {
    /// All its registers read as ones: there is no device behind the BAR, or not any more.
    #[error("the device does not answer")]
    Gone,
    /// The identification register holds this.
    #[error("the device identifies itself as {0:#010x}: that is no edu")]
    NotEdu(u32),
    /// The liveness register did not give back the complement of what was written.
    #[error("the device is not alive: it answered {found:#010x} to {written:#010x}")]
    NotAlive {
        /// What was written.
        written: u32,
        /// What was read.
        found: u32,
    },
    /// A transfer is running.
    #[error("the device is busy with a transfer")]
    Busy,
    /// The transfer would leave the device's own buffer, or move nothing; see [`TRANSFER_END`].
    #[error(
        "{bytes} bytes at {offset} are no part of the first {TRANSFER_END} of the device's buffer"
    )]
    OutOfDevice {
        /// Where in the device's buffer the transfer would start.
        offset: u64,
        /// How long it would be.
        bytes: u64,
    },
    /// The transfer did not end before the caller's deadline.
    #[error("the device did not finish the transfer in time")]
    TimedOut,
}
