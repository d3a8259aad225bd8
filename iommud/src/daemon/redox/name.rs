//! The scheme's name: whether it can be had, and freeing it after a death.
//!
//! A scheme's name outlives its daemon: the namespace holds the scheme's root until it is told to forget it
//! (base 9e128703, `bootstrap/src/initnsmgr.rs`), and nobody can take the name meanwhile.

use std::fs;

use libdma::protocol::path::SCHEME;
use libredox::Fd;
use libredox::call::getns;
use libredox::errno::ENODEV;
use libredox::flag::O_CLOEXEC;

use super::error::Error;

/// Where a namespace shows the names that are in it.
const NAMES: &str = "/scheme";

/// Sees to it that the name is free: that of a dead daemon is freed.
///
/// # Errors
///
/// [`Error::AlreadyServed`] if a daemon lives that has it; then nothing has changed.
pub fn free() -> Result<(), Error> {
    let path = format!("{NAMES}/{SCHEME}");
    match Fd::open(&path, O_CLOEXEC, 0) {
        Ok(_) => Err(Error::AlreadyServed),
        // So it is for a name that nobody has, too.
        Err(error) if error.errno() == ENODEV => {
            if is_taken() {
                syscall::unlinkat(getns()?, &path, 0).map_err(libredox::error::Error::from)?;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the name is in the namespace. Where that cannot be told, it counts as taken.
fn is_taken() -> bool {
    let Ok(names) = fs::read_dir(NAMES) else { return true };
    names.flatten().any(|name| name.file_name() == SCHEME)
}
