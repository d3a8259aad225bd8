//! What a program that is run inherits.

use std::io;

use libredox::call::fcntl;
use libredox::flag::{F_SETFD, O_CLOEXEC};

/// The first descriptor that is not one of the three that every program has.
const FIRST: usize = 3;

/// No program that starts a driver has as many.
const END: usize = 1024;

/// Lets a program that is run inherit nothing but standard input, output and error: pcid-spawner has other
/// drivers' descriptors open.
pub(super) fn close_all_on_exec() {
    for descriptor in FIRST..END {
        // The flag has the same value among a descriptor's flags as among those of open. What is not open has none.
        let _ = fcntl(descriptor, F_SETFD as usize, O_CLOEXEC as usize);
    }
}

/// Lets a program that is run inherit this, under its number.
pub(super) fn leave_open(descriptor: usize) -> io::Result<()> {
    fcntl(descriptor, F_SETFD as usize, 0)?;
    Ok(())
}
