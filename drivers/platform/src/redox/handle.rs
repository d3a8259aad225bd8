//! Handles, which are descriptors of the `iommu` scheme.

use std::sync::Arc;

use libdma::Handle;
use libdma::transport::Transport;
use libdma::transport::scheme::Scheme;
use libredox::Fd;
use libredox::call::fcntl;
use libredox::flag::{F_SETFD, O_CLOEXEC};

use crate::error::Error;

/// The transport to iommud, for opening things.
///
/// # Errors
///
/// Never: whether iommud is there, opening something tells.
pub fn connect() -> Result<Arc<dyn Transport>, libdma::Error> {
    Ok(Scheme::new())
}

/// Takes over a handle that was passed to this process as a descriptor of this number.
///
/// `None` if there is none.
///
/// # Safety
///
/// If there is a descriptor of this number, whoever started or told this process made it over to it, and nobody has
/// taken it over before.
pub(crate) unsafe fn adopt(number: u16) -> Option<Handle> {
    let number = usize::from(number);
    // The flag has the same value among a descriptor's flags as among those of open.
    fcntl(number, F_SETFD as usize, O_CLOEXEC as usize).ok()?;
    // It is open, since its flags could be set, and by the caller's promise this process's own and nobody's yet.
    Some(Scheme::handle(Fd::new(number)))
}

/// Lets the children of this process inherit a handle, under its number.
///
/// # Errors
///
/// [`Error::System`].
pub fn let_inherit(handle: &Handle) -> Result<(), Error> {
    fcntl(handle.raw().number() as usize, F_SETFD as usize, 0)
        .map(drop)
        .map_err(|error| Error::system("cannot pass the handle on")(error.into()))
}
