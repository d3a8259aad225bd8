//! What refuses the whole table.

use thiserror::Error;

use crate::acpi::LengthFault;
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
    /// The path of a device scope ends within a step.
    #[error(
        "the device scope at offset {offset:#x} has a path of {bytes} bytes, which is no whole number of steps"
    )]
    HalfStep {
        /// Where the scope starts.
        offset: usize,
        /// How many bytes the path has.
        bytes: usize,
    },
}
