//! Memory objects: address spaces in which nobody runs (kernel 663e6641, `src/scheme/proc.rs`: `empty`).

use libredox::Fd;
use libredox::call::{dup, fcntl};
use libredox::flag::{F_SETFD, O_CLOEXEC};

use crate::protocol::Error;

unsafe extern "C" {
    /// The descriptor by which the kernel knows the thread that calls. relibc exports it; the value stays
    /// relibc's own, and is valid as long as the thread.
    safe fn redox_cur_thrfd_v0() -> usize;
}

/// The address space of this process.
pub(crate) fn own() -> Result<Fd, Error> {
    Ok(Fd::new(dup(redox_cur_thrfd_v0(), b"addrspace").map_err(error)?))
}

/// A memory object with nothing in it, that programs which this process starts do not get.
pub(crate) fn empty() -> Result<Fd, Error> {
    let object = Fd::new(own()?.dup(b"empty").map_err(error)?);
    // The flag has the same value among a descriptor's flags as among those of open.
    fcntl(object.raw(), F_SETFD as usize, O_CLOEXEC as usize).map_err(error)?;
    Ok(object)
}

/// Tells an address space to do what these words say.
pub(crate) fn tell<const WORDS: usize>(space: &Fd, words: &[usize; WORDS]) -> Result<(), Error> {
    let bytes = words.map(usize::to_ne_bytes);
    space.write(bytes.as_flattened()).map(drop).map_err(error)
}

/// What iommud or the kernel answered. The kernel's own errors come the same way and are told apart by number.
pub(crate) fn error(error: libredox::error::Error) -> Error {
    Error::from_errno(u16::try_from(error.errno()).unwrap_or(u16::MAX))
}
