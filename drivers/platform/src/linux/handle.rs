//! Handles, which are sockets.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
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

/// Takes over a handle that was passed to this process as a descriptor of this number.
///
/// # Errors
///
/// [`Error::NoPassedHandle`].
pub fn adopt(number: &str) -> Result<Handle, Error> {
    let number: u16 = number.parse().map_err(|_| Error::NoPassedHandle)?;
    let number = RawFd::from(number);
    // SAFETY: the descriptor is borrowed for this call alone, which fails if it is not open.
    fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::CLOEXEC)
        .map_err(|_| Error::NoPassedHandle)?;
    // SAFETY: it is open, and whoever set the variable made it over to this process. Nothing here opened
    // it, so nothing here closes it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(Handle::new(Socket::unconnected(), Socket::adopt(descriptor)))
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
    fn r5_a_variable_that_names_no_descriptor_is_refused() {
        for number in ["", "x", "-1", "65535", "99999999999999999999", "3 "] {
            assert!(matches!(adopt(number), Err(Error::NoPassedHandle)), "{number:?}");
        }
    }

    #[test]
    fn a_handle_is_inherited_only_where_it_is_passed_on() {
        let (ours, _its) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let handle = Handle::new(Socket::unconnected(), Socket::adopt(ours));
        let borrowed = descriptor(&handle).unwrap();
        let_inherit(&handle).unwrap();
        assert_eq!(fcntl_getfd(borrowed).unwrap(), FdFlags::empty());
        let adopted = adopt(&handle.raw().number().to_string()).unwrap();
        assert_eq!(fcntl_getfd(borrowed).unwrap(), FdFlags::CLOEXEC);
        // Both own the same number now, as parent and child would after an exec; close it once.
        core::mem::forget(adopted);
    }
}
