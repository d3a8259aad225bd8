//! Leaving a file open for the programs that this one starts.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// Leaves the file open for programs that are started from now on; under which number.
#[cfg(target_os = "linux")]
pub fn let_inherit(file: &File) -> io::Result<RawFd> {
    rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?;
    Ok(file.as_raw_fd())
}

/// Leaves the file open for programs that are started from now on; under which number.
#[cfg(target_os = "redox")]
pub fn let_inherit(file: &File) -> io::Result<RawFd> {
    libredox::call::fcntl(file.as_raw_fd() as usize, libredox::flag::F_SETFD as usize, 0)?;
    Ok(file.as_raw_fd())
}
