//! Why a job failed.

use std::io;

use dma_types::{Iova, PciAddress};
use thiserror::Error as ThisError;

/// Why a job failed.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The machine has no `edu`, or this process is not told of it.
    #[error("there is no edu (1234:11e8) here: name the device with --device, or use --sim")]
    NoDevice,
    /// The device of this address is another one.
    #[error("{0} is no edu (1234:11e8)")]
    NotEdu(PciAddress),
    /// The device could not be had, or the system did not do something.
    #[error(transparent)]
    Platform(#[from] driver_platform::Error),
    /// An address was given for a misbehaviour that has its own.
    #[error("--address is only for --rogue read and --rogue physical")]
    NeedlessAddress,
    /// iommud refused something.
    #[error("iommud: {0}")]
    Iommud(#[from] libdma::Error),
    /// The device failed.
    #[error("{0}")]
    Device(#[from] crate::Error),
    /// What came back from the device is not what was sent.
    #[error(
        "word {index} at I/O address {iova} came back as {found:#018x} instead of {expected:#018x}"
    )]
    Corrupt {
        /// Which word of the buffer.
        index: usize,
        /// Where in memory the device wrote it.
        iova: Iova,
        /// What was sent.
        expected: u64,
        /// What came back.
        found: u64,
    },
    /// A device that does not even do what it may proves nothing by what it does not do.
    #[error("the device does not do transfers that it may: byte {index} at I/O address {iova}")]
    Inert {
        /// Where in memory the device was to write.
        iova: Iova,
        /// The first byte that it did not.
        index: usize,
    },
    /// A request that must be refused was, but not for what is wrong with it.
    #[error("{what} was refused for another reason than it should be: {error}")]
    OtherRefusal {
        /// What was asked.
        what: &'static str,
        /// The answer.
        error: libdma::Error,
    },
    /// The report could not be written.
    #[error("cannot write the report: {0}")]
    Report(#[from] io::Error),
}
