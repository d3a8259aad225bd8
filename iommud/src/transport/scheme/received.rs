//! Descriptors that clients send.
//!
//! Whatever is sent is taken, and [closed apart](crate::platform::redox::closing). What a client sends may be of a scheme
//! of its own altogether, which may never answer: nothing is asked of a descriptor here but what the kernel answers
//! itself.
//!
//! No descriptor is ever given to a client but those of this scheme: whoever holds a memory object can
//! take memory out of it and put other memory in, which is more than any right here (rule R3).

use libdma::Error;
use libredox::Fd;
use libredox::errno::ENOMEM;
use libredox::error::Error as SystemError;
use redox_scheme::{SendFdRequest, Socket};
use syscall::flag::FobtainFdFlags;

use crate::daemon::log;
use crate::platform::redox::closing::close_apart;
use crate::platform::redox::foreign::ForeignError;
use crate::platform::redox::plain::Unfit;

/// The descriptors that came with a request.
pub struct Received(Vec<Fd>);

impl Received {
    /// Takes them out of the request.
    pub fn take(request: &SendFdRequest, socket: &Socket) -> Self {
        // As many as the client had open.
        let mut numbers = vec![usize::MAX; request.num_fds()];
        match request.obtain_fd(socket, FobtainFdFlags::empty(), &mut numbers) {
            Ok(()) => Self(numbers.into_iter().map(Fd::new).collect()),
            Err(error) => {
                log::line(format_args!(
                    "what a client sent cannot be taken: {}",
                    SystemError::from(error)
                ));
                Self(Vec::new())
            }
        }
    }

    /// The descriptor, if there is one and no more.
    pub fn only(&self) -> Option<&Fd> {
        match &self.0[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Closes them all, and does not wait for it.
    pub fn close_apart(self) {
        close_apart(self.0);
    }
}

/// What a client is told of memory that was not taken over.
pub fn refusal(error: ForeignError) -> Error {
    match error {
        ForeignError::NotAnObject => Error::NotMemory,
        ForeignError::Unfit(Unfit::TooShort) => Error::OutOfBuffer,
        ForeignError::Unfit(Unfit::NotPlain) => Error::NotOwnMemory,
        ForeignError::Unfit(Unfit::TooManyPieces) => Error::TooLarge,
        ForeignError::System(error) if error.errno() == ENOMEM => Error::OutOfMemory,
        ForeignError::System(_) => Error::BadAddress,
    }
}
