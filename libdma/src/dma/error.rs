//! Why there is no memory.

use thiserror::Error as ThisError;

use crate::handed::HandedError;
use crate::protocol::Error;

/// Why there is no DMA memory.
///
/// [`Dma`](super::Dma)'s own methods return libredox's error, as base's do, which is an errno and nothing else;
/// [`check`](super::check) returns this.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum DmaError {
    /// No device was handed to this process. `ENODEV`.
    #[error(transparent)]
    NoDevice(#[from] HandedError),
    /// Memory without an IOMMU was asked for where there is none.
    #[error("IOMMU_DEVICE is `none`, and there is plain contiguous memory on Redox alone")]
    NoPlainMemory,
    /// The memory scheme gave no memory.
    #[error("the memory scheme gives no contiguous memory: errno {0}")]
    MemoryScheme(u16),
    /// iommud gave no memory.
    #[error("iommud gives no memory: {0}")]
    Iommud(#[from] Error),
    /// A type of no size, or no values. `EINVAL`, as base.
    #[error("memory for nothing was asked for")]
    Empty,
    /// More than can be had in one piece. `ENOMEM`, as base.
    #[error("{0} bytes are more than can be had in one piece")]
    TooLarge(usize),
    /// A type that must be aligned to more than its memory is. `EINVAL`.
    #[error("a type that must be aligned to {0} bytes cannot lie in this memory")]
    BadAlignment(usize),
    /// The size is more than an address can count. `ENOMEM`.
    #[error("{count} values of {bytes} bytes are more than there are addresses")]
    Overflow {
        /// How many values.
        count: usize,
        /// How long each is.
        bytes: usize,
    },
}

/// Errnos, which are the same on Redox and Linux.
const EINVAL: u16 = 22;
const ENODEV: u16 = 19;
const ENOMEM: u16 = 12;

impl DmaError {
    /// The errno by which a driver learns of it.
    pub const fn errno(&self) -> u16 {
        match self {
            Self::NoDevice(_) | Self::NoPlainMemory => ENODEV,
            Self::MemoryScheme(errno) => *errno,
            Self::Iommud(error) => error.errno(),
            Self::Empty | Self::BadAlignment(_) => EINVAL,
            Self::TooLarge(_) | Self::Overflow { .. } => ENOMEM,
        }
    }
}

impl From<DmaError> for libredox_01::error::Error {
    fn from(error: DmaError) -> Self {
        Self::new(error.errno().into())
    }
}

impl From<DmaError> for std::io::Error {
    fn from(error: DmaError) -> Self {
        Self::from_raw_os_error(error.errno().into())
    }
}
