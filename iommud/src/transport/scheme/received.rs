//! Descriptors that clients send.
//!
//! Whatever is sent is taken, and closed once, in a thread of its own. To close the last descriptor of an address space is
//! to give up all that is mapped in it, and where that is memory of some scheme's, the kernel asks the scheme and waits:
//! a client could have its own scheme never answer. So could what a client sends be of its own scheme altogether;
//! nothing is asked of a descriptor here but what the kernel answers itself.
//!
//! No descriptor is ever given to a client but those of this scheme: whoever holds a memory object can
//! take memory out of it and put other memory in, which is more than any right here (rule R3).

use core::mem::ManuallyDrop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use libdma::Error;
use libredox::Fd;
use libredox::errno::ENOMEM;
use libredox::error::Error as SystemError;
use redox_scheme::{SendFdRequest, Socket};
use syscall::flag::FobtainFdFlags;

use crate::daemon::log;
use crate::platform::redox::foreign::ForeignError;

/// How many may be being closed at once. What comes when so many are stuck stays open.
const MOST_CLOSING: usize = 64;

static CLOSING: AtomicUsize = AtomicUsize::new(0);

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
        // Without the thread they are not closed.
        let descriptors = ManuallyDrop::new(self.0);
        if CLOSING.fetch_add(1, Ordering::Relaxed) < MOST_CLOSING {
            let close = move || {
                drop(ManuallyDrop::into_inner(descriptors));
                CLOSING.fetch_sub(1, Ordering::Relaxed);
            };
            if thread::Builder::new().spawn(close).is_ok() {
                return;
            }
        }
        CLOSING.fetch_sub(1, Ordering::Relaxed);
        log::line("what a client sent stays open: too much of what clients sent is being closed");
    }
}

/// What a client is told of memory that was not taken over.
pub fn refusal(error: ForeignError) -> Error {
    match error {
        ForeignError::NotAnObject => Error::NotMemory,
        ForeignError::TooShort => Error::OutOfBuffer,
        ForeignError::NotPlain => Error::NotOwnMemory,
        ForeignError::System(error) if error.errno() == ENOMEM => Error::OutOfMemory,
        ForeignError::System(_) => Error::BadAddress,
    }
}
