//! Why there is no memory.

use std::string::String;

use thiserror::Error as ThisError;

use crate::protocol::Error;

/// Why there is no DMA memory.
///
/// [`Dma`](super::Dma)'s own methods return libredox's error, as base's do, which is an errno and nothing else;
/// [`check`](super::check) returns this.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum DmaError {
    /// The variable is not set. `ENODEV`.
    #[error(
        "IOMMU_DEVICE is not set: start the driver through iommu-run, or set it to `none` for a device \
         that shall not be confined"
    )]
    NotSet,
    /// The variable has a value that means nothing. `ENODEV`.
    #[error("IOMMU_DEVICE is {0:?}, which is neither the number of a descriptor nor `none`")]
    Meaningless(String),
    /// No handle of iommud's has this number. `ENODEV`.
    #[error("IOMMU_DEVICE is {0}, but descriptor {0} is no device handle of iommud's")]
    NotHanded(usize),
    /// iommud does not serve the handle. `ENODEV`.
    #[error("iommud does not serve the device of descriptor {descriptor}: {error}")]
    Refused {
        /// The number of the handle.
        descriptor: usize,
        /// What iommud said.
        error: Error,
    },
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
            Self::NotSet
            | Self::Meaningless(_)
            | Self::NotHanded(_)
            | Self::Refused { .. }
            | Self::NoPlainMemory => ENODEV,
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
