//! Why a range could not be mapped or unmapped. Nothing has changed (rule R7).

use dma_types::{Iova, PhysAddr};
use thiserror::Error;

/// Why a range was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// There is nothing to map.
    #[error("there is nothing to map")]
    Empty,
    /// An address or length is not a multiple of 4096.
    #[error("an address or length is not a multiple of 4096")]
    Misaligned,
    /// The range, or its memory, ends beyond what the table can translate.
    #[error("the range or its memory ends beyond what the table can translate")]
    OutOfRange,
    /// Something is mapped there already.
    #[error("something is mapped at {0} already")]
    Occupied(Iova),
    /// The table that is kept although it is empty may be in the way of a large page.
    #[error("an empty table is in the way")]
    EmptyTable,
    /// No frame for a table.
    #[error("there is no memory for tables")]
    OutOfFrames,
    /// A table is where no table can be.
    #[error("a table is said to be at {0}, which is not in the arena")]
    Foreign(PhysAddr),
}

/// Why a range was not unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnmapError {
    /// There is nothing to unmap.
    #[error("there is nothing to unmap")]
    Empty,
    /// An address or length is not a multiple of 4096.
    #[error("an address or length is not a multiple of 4096")]
    Misaligned,
    /// Some of the range is not mapped.
    #[error("nothing is mapped at {0}")]
    NotMapped(Iova),
    /// No frame for the tables that a large page is taken apart into.
    #[error("there is no memory for tables")]
    OutOfFrames,
    /// A table is where no table can be.
    #[error("a table is said to be at {0}, which is not in the arena")]
    Foreign(PhysAddr),
}

/// A table is said to be there, and cannot be: it is not in the arena, or not of a lower level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign(pub(super) PhysAddr);

impl From<Foreign> for MapError {
    fn from(Foreign(frame): Foreign) -> Self {
        Self::Foreign(frame)
    }
}

impl From<Foreign> for UnmapError {
    fn from(Foreign(frame): Foreign) -> Self {
        Self::Foreign(frame)
    }
}

/// There are no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfFrames;

impl From<OutOfFrames> for MapError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl From<OutOfFrames> for UnmapError {
    fn from(OutOfFrames: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}
