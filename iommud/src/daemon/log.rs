//! Lines on standard error.

use core::fmt;
use std::io::{self, Write};

/// Writes one line, with the daemon's name before it.
///
/// A daemon whose standard error nobody reads any more goes on without: the IOMMU is not let go for a line.
pub fn line(text: impl fmt::Display) {
    // One write, so that lines of several processes on one terminal do not mix.
    let line = format!("iommud: {text}\n");
    let _ = io::stderr().write_all(line.as_bytes());
}
