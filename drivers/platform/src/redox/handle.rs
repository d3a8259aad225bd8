//! Handles, which are descriptors of the `iommu` scheme.

use std::sync::Arc;

use libdma::Handle;
use libdma::transport::Transport;
use libdma::transport::scheme::Scheme;
use libredox::call::fcntl;
use libredox::flag::F_SETFD;

use crate::error::Error;

/// The transport to iommud, for opening things.
///
/// # Errors
///
/// Never: whether iommud is there, opening something tells.
pub fn connect() -> Result<Arc<dyn Transport>, libdma::Error> {
    Ok(Scheme::new())
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
