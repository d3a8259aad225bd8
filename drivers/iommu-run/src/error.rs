//! Why the driver was not started.

use std::io;

use dma_types::PciAddress;
use thiserror::Error as ThisError;

/// Why the driver was not started.
#[derive(Debug, ThisError)]
pub enum Error {
    /// There are neither namespaces nor pcid elsewhere.
    #[error("a driver can be started so on Redox alone")]
    NotRedox,
    /// Nobody said which function the driver is for.
    #[error(
        "PCID_CLIENT_CHANNEL is not set: this is for pcid's driver configuration, where it stands before the \
         driver's command"
    )]
    NoChannel,
    /// pcid does not say which function it is.
    #[error(transparent)]
    Pcid(#[from] pcid_channel::Error),
    /// There is no iommud.
    #[error(
        "{0} is not given to its driver, for iommud is not running: start it before pcid-spawner, or allow the \
         device to go unconfined by --without-iommu"
    )]
    NoIommud(PciAddress),
    /// iommud does not give the device.
    #[error("iommud does not give {address}: {error}")]
    Device {
        /// Which device.
        address: PciAddress,
        /// Why not.
        error: libdma::Error,
    },
    /// The driver's namespace could not be made.
    #[error("the driver's namespace cannot be made: {0}")]
    Namespace(io::Error),
    /// The process that was to serve the driver's namespace ended at once.
    #[error("the driver's namespace cannot be made: the process that was to serve it has ended")]
    NamespaceEnded,
    /// The driver's program cannot be run.
    #[error("cannot run {program}: {error}")]
    Program {
        /// Its path.
        program: String,
        /// Why not.
        error: io::Error,
    },
}

impl Error {
    /// The exit code that stands for it; `--help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRedox => 1,
            // 2 is clap's, for wrong usage.
            Self::NoIommud(_) => 3,
            Self::Device { .. } => 4,
            Self::NoChannel | Self::Pcid(_) => 5,
            Self::Namespace(_) | Self::NamespaceEnded => 6,
            Self::Program { .. } => 7,
        }
    }
}
