//! Handles, which are descriptors of the `iommu` scheme.

use std::sync::Arc;

use libdma::Handle;
use libdma::transport::Transport;
use libdma::transport::scheme::Scheme;
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
/// # Errors
///
/// [`Error::NoPassedHandle`].
pub fn adopt(number: &str) -> Result<Handle, Error> {
    let number = usize::from(number.parse::<u16>().map_err(|_| Error::NoPassedHandle)?);
    // The flag has the same value among a descriptor's flags as among those of open.
    fcntl(number, F_SETFD as usize, O_CLOEXEC as usize).map_err(|_| Error::NoPassedHandle)?;
    // SAFETY: the descriptor is open, since its flags could be set, and whoever passed it gave it to us.
    Ok(Handle::new(Scheme::new(), unsafe { Scheme::adopt(number) }))
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
