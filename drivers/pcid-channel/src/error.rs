//! Why pcid could not be understood.

use std::io;

use thiserror::Error as ThisError;

/// Why there is no answer of pcid's.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The channel cannot be written or read.
    #[error("pcid's channel cannot be used: {0}")]
    Channel(#[from] io::Error),
    /// It says that its answer is longer than any can be. The channel is of no use any more.
    #[error("pcid's answer would be {0} bytes long")]
    TooLong(u64),
    /// The answer is none to the request.
    #[error("pcid's answer cannot be understood")]
    Meaningless,
}
