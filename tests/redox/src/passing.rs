//! Handing a handle to a process that runs already: over a pipe, by Redox's `sendfd`.

use std::io::{PipeReader, PipeWriter};

use agent::failure::Outcome;
use libdma::Handle;

/// Lets the children of this process inherit the end of a pipe from which they [`receive`]; gives its number.
#[cfg(target_os = "redox")]
pub(crate) fn let_receive(pipe: &PipeReader) -> Outcome<String> {
    use std::os::fd::AsRawFd;

    let number = pipe.as_raw_fd() as usize;
    libredox::call::fcntl(number, libredox::flag::F_SETFD as usize, 0)?;
    Ok(number.to_string())
}

/// Sends a handle, and keeps it.
#[cfg(target_os = "redox")]
pub(crate) fn send(pipe: &PipeWriter, handle: &Handle) -> Outcome {
    use std::os::fd::AsRawFd;

    use syscall::CallFlags;

    let number = (handle.raw().number() as usize).to_ne_bytes();
    let flags = CallFlags::FD | CallFlags::FD_CLONE;
    libredox::call::call_wo(pipe.as_raw_fd() as usize, &number, flags, &[])?;
    Ok(())
}

/// Waits for what is sent to the end of a pipe of this number.
#[cfg(target_os = "redox")]
pub(crate) fn receive(pipe: &str) -> Outcome<Handle> {
    use agent::failure::{Failure, require};
    use libdma::transport::scheme::Scheme;
    use libredox::Fd;
    use libredox::flag::{F_SETFD, O_CLOEXEC};
    use syscall::CallFlags;

    let pipe: usize = pipe.parse().map_err(|_| Failure(format!("{pipe:?} is no descriptor")))?;
    // The kernel chooses the number if it is not told one, which this says.
    let mut number = usize::MAX.to_ne_bytes();
    let flags = CallFlags::FD | CallFlags::FD_UPPER;
    let count = libredox::call::call_ro(pipe, &mut number, flags, &[])?;
    require!(count > 0, "nothing was sent");
    // That number is among those that are for whole programs' own use. An ordinary one is a duplicate's.
    let received = usize::from_ne_bytes(number);
    let ordinary = libredox::call::dup(received, []);
    libredox::call::close(received)?;
    let ordinary = Fd::new(ordinary?);
    libredox::call::fcntl(ordinary.raw(), F_SETFD as usize, O_CLOEXEC as usize)?;
    Ok(Scheme::handle(ordinary))
}

#[cfg(not(target_os = "redox"))]
pub(crate) use elsewhere::{let_receive, receive, send};

/// So that the rest is checked on other systems, too.
#[cfg(not(target_os = "redox"))]
mod elsewhere {
    use agent::failure::Failure;

    use super::{Handle, Outcome, PipeReader, PipeWriter};

    fn only_redox<T>() -> Outcome<T> {
        Err(Failure("handles are sent over pipes on Redox alone".into()))
    }

    pub(crate) fn let_receive(_: &PipeReader) -> Outcome<String> {
        only_redox()
    }

    pub(crate) fn send(_: &PipeWriter, _: &Handle) -> Outcome {
        only_redox()
    }

    pub(crate) fn receive(_: &str) -> Outcome<Handle> {
        only_redox()
    }
}
