//! Why there is no policy.

use core::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there is no policy.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("{}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file is too large to be a policy.
    #[error("{}: this is no policy: it has more than {most} bytes", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The most that a policy may have.
        most: u64,
    },
    /// What the file says cannot be.
    #[error("{}:{fault}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// Where in it, and why.
        fault: Fault,
    },
}

/// What a text says cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1.
    pub line: usize,
    /// The column, in characters, counted from 1.
    pub column: usize,
    /// What is wrong, and what is allowed there.
    pub sentence: String,
}

impl fmt::Display for Fault {
    /// `line:column: sentence`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.sentence)
    }
}
