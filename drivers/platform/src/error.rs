//! Why a device could not be had, or the system did not do something.

use std::io;

use dma_types::PciAddress;
use libdma::HandedError;
use thiserror::Error as ThisError;

/// Why a device could not be had, or the system did not do something.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The handle or the channel that was passed to this process is not for the device to be driven.
    #[error("what was passed to this process is for {passed}, not for {wanted}")]
    OtherDevice {
        /// Which device was passed.
        passed: PciAddress,
        /// Which device was to be driven.
        wanted: PciAddress,
    },
    /// This process was not handed its device as it should have been.
    #[error(transparent)]
    Handed(#[from] HandedError),
    /// A variable is not the number of an open descriptor.
    #[error("{0} is not the number of an open descriptor")]
    NotPassed(String),
    /// iommud did not give the device.
    #[error("cannot open {address} at iommud: {error}")]
    Open {
        /// Which device.
        address: PciAddress,
        /// Why not.
        error: libdma::Error,
    },
    /// iommud refused something.
    #[error("iommud: {0}")]
    Iommud(#[from] libdma::Error),
    /// The function has no BAR of this number.
    #[cfg(target_os = "redox")]
    #[error("{0} has no BAR {1}")]
    NoBar(PciAddress, u32),
    /// pcid does not say what the function is.
    #[cfg(target_os = "redox")]
    #[error(transparent)]
    Pcid(#[from] pcid_channel::Error),
    /// The operating system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
}

impl Error {
    /// For `map_err`: what was tried when the operating system refused.
    pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::System { what, error }
    }
}
