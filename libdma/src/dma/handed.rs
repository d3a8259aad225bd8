//! The device handle that this process was started with.

use crate::handle::Handle;

/// Takes over the handle that another process left open for this one as this descriptor, and sees to it that no
/// program run from here inherits it. `None`, with nothing done, if the descriptor is not one of iommud's.
#[cfg(target_os = "redox")]
pub(super) fn adopt(descriptor: usize) -> Option<Handle> {
    use crate::protocol::path::SCHEME;
    use crate::transport::scheme::Scheme;
    use libredox::call;
    use libredox::flag::{F_SETFD, O_CLOEXEC};

    let mut path = [0; 64];
    let length = call::fpath(descriptor, &mut path).ok()?;
    let path = core::str::from_utf8(path.get(..length)?).ok()?;
    path.strip_prefix("/scheme/")?.strip_prefix(SCHEME)?.strip_prefix('/')?;
    // The flag has the same value among a descriptor's flags as among those of open.
    call::fcntl(descriptor, F_SETFD as usize, O_CLOEXEC as usize).ok()?;
    // Whoever set the variable made it over to this process. It is adopted once, for the answer is kept.
    Some(Scheme::handle(libredox::Fd::new(descriptor)))
}

/// The same on Linux, where a handle is a socket.
#[cfg(target_os = "linux")]
pub(super) fn adopt(descriptor: usize) -> Option<Handle> {
    use crate::transport::socket::Socket;
    use rustix::io::{FdFlags, fcntl_setfd};
    use rustix::net::{AddressFamily, SocketType, sockopt};
    use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

    let number = RawFd::try_from(descriptor).ok()?;
    // SAFETY: it is borrowed for these calls alone, which fail if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let family = sockopt::socket_domain(borrowed).ok()?;
    let kind = sockopt::socket_type(borrowed).ok()?;
    if (family, kind) != (AddressFamily::UNIX, SocketType::SEQPACKET) {
        return None;
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, and whoever set the variable made it over to this process. It is adopted once, for the
    // answer is kept.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    Some(Socket::handle(owned))
}
