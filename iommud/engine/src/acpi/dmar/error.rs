//! What refuses the whole table.

use thiserror::Error;

use crate::acpi::sdt::SdtError;

/// The table cannot be used: a length in it is wrong, and what comes after cannot be found with certainty.
///
/// Offsets are in bytes from the start of the table, as `iasl -d` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DmarError {
    /// The table as a whole.
    #[error(transparent)]
    Table(#[from] SdtError),
    /// A remapping structure.
    #[error("the structure at offset {offset:#x} {fault}")]
    Structure {
        /// Where the structure starts.
        offset: usize,
        /// What is wrong with it.
        fault: LengthFault,
    },
    /// A device scope.
    #[error("the device scope at offset {offset:#x} {fault}")]
    Scope {
        /// Where the scope starts.
        offset: usize,
        /// What is wrong with it.
        fault: LengthFault,
    },
}

/// What is wrong with the length of a structure or scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LengthFault {
    /// What holds it ends before its own length could be read.
    #[error("is cut off after {left} bytes")]
    CutOff {
        /// How many bytes are left there.
        left: usize,
    },
    /// It is shorter than the fields that it must have; a length of zero is one such.
    #[error("says it has {length} bytes, and its fields alone take {least}")]
    TooShort {
        /// The length it gives.
        length: usize,
        /// The least it can be.
        least: usize,
    },
    /// It runs over the end of what holds it.
    #[error("says it has {length} bytes where {left} are left")]
    PastEnd {
        /// The length it gives.
        length: usize,
        /// How many bytes are left there.
        left: usize,
    },
    /// The path of a scope ends within a step.
    #[error("has a path of {bytes} bytes, which is no whole number of steps")]
    HalfStep {
        /// How many bytes the path has.
        bytes: usize,
    },
}
