//! What refuses the whole table.

use thiserror::Error;

use crate::acpi::LengthFault;
use crate::acpi::sdt::SdtError;

/// The table cannot be used: a length in it is wrong, and what comes after cannot be found with certainty.
///
/// Offsets are in bytes from the start of the table, as `iasl -d` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IvrsError {
    /// The table as a whole.
    #[error(transparent)]
    Table(#[from] SdtError),
    /// A block.
    #[error("the block at offset {offset:#x} {fault}")]
    Block {
        /// Where the block starts.
        offset: usize,
        /// What is wrong with it.
        fault: LengthFault,
    },
    /// A device entry.
    #[error("the device entry at offset {offset:#x} {fault}")]
    Entry {
        /// Where the entry starts.
        offset: usize,
        /// What is wrong with it.
        fault: LengthFault,
    },
}
