//! Descriptors that whoever started this process made over to it.

use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};

use crate::variable;

/// The descriptor that a variable names, if it is set; for whoever asks first.
pub(super) fn inherited(variable: &str) -> Option<File> {
    let number: u16 = variable::take(variable)?.parse().ok()?;
    // SAFETY: whoever started this process made the descriptor over to it under this variable, and nobody has taken it
    // before.
    Some(unsafe { File::from_raw_fd(RawFd::from(number)) })
}
