//! Handles, which are sockets.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use libdma::Handle;
use libdma::transport::Transport;
use libdma::transport::socket::Socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::error::Error;

/// The transport to iommud, for opening things.
///
/// # Errors
///
/// That of connecting: iommud is not there.
pub fn connect() -> Result<Arc<dyn Transport>, libdma::Error> {
    Ok(Socket::connect()?)
}

/// Lets the children of this process inherit a handle, under its number.
///
/// # Errors
///
/// [`Error::Iommud`] if it is no descriptor, [`Error::System`].
pub fn let_inherit(handle: &Handle) -> Result<(), Error> {
    fcntl_setfd(descriptor(handle)?, FdFlags::empty())
        .map_err(|errno| Error::system("cannot pass the handle on")(errno.into()))
}

/// Waits until a handle has something to be read; whether it has.
///
/// # Errors
///
/// [`Error::Iommud`] if it is no descriptor or the time is too long, [`Error::System`].
pub fn wait_readable(handle: &Handle, patience: Duration) -> Result<bool, Error> {
    let descriptor = descriptor(handle)?;
    let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
    let patience = Timespec::try_from(patience).map_err(|_| libdma::Error::BadValue)?;
    poll(&mut descriptors, Some(&patience))
        .map(|readable| readable > 0)
        .map_err(|errno| Error::system("cannot wait for the handle")(errno.into()))
}

fn descriptor(handle: &Handle) -> Result<BorrowedFd<'_>, libdma::Error> {
    let number = RawFd::try_from(handle.raw().number()).map_err(|_| libdma::Error::BadHandle)?;
    // SAFETY: the handle is open for as long as it is borrowed here.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::fcntl_getfd;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn r5_a_number_that_is_no_descriptor_is_refused() {
        // SAFETY: there is no descriptor of this number.
        assert!(unsafe { Handle::inherited(65535) }.is_none());
        assert!(matches!(crate::lent(), Ok(None)));
    }

    #[test]
    fn a_handle_is_inherited_only_where_it_is_passed_on() {
        let (ours, _its) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let handle = Socket::handle(ours);
        let_inherit(&handle).unwrap();
        assert_eq!(fcntl_getfd(descriptor(&handle).unwrap()).unwrap(), FdFlags::empty());
        let number = usize::try_from(handle.into_raw().number()).unwrap();
        // SAFETY: it is what was given up just now.
        let adopted = unsafe { Handle::inherited(number) }.unwrap();
        assert_eq!(fcntl_getfd(descriptor(&adopted).unwrap()).unwrap(), FdFlags::CLOEXEC);
    }
}
