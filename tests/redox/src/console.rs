//! The console, which others write to as well.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes a line, in one piece so that nobody else's words come into the middle of it.
pub(crate) fn say(line: impl Display) {
    let mut console = io::stdout().lock();
    // Where nobody listens, there is nobody to tell that.
    let _ = console.write_all(format!("{line}\n").as_bytes());
    let _ = console.flush();
}
