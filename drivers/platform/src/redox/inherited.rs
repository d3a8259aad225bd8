//! Descriptors that whoever started this process made over to it.

use std::env;
use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};

/// The descriptor that a variable names, if it is set.
pub(super) fn inherited(variable: &str) -> Option<File> {
    let number: u16 = env::var(variable).ok()?.parse().ok()?;
    // SAFETY: whoever started this process made the descriptor over to it under this variable. Each
    // variable is looked at once.
    Some(unsafe { File::from_raw_fd(RawFd::from(number)) })
}
