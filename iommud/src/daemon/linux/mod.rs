//! From the start to the end, on Linux.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`keeper`] | watches over the process that serves |
//! | [`store`] | the memory that it keeps for that |
//! | [`server`] | serves |
//! | [`error`] | [`Error`]: why it ended |
//!
//! # The processes
//!
//! What a person or a test starts is the keeper, and stays in the foreground. It listens at the socket, starts the same
//! program again to serve, waits for its end and starts the next one: [`keeping`](super::keeping) says what it decides by.
//! The socket is lent to each that serves, so that clients who connect between two of them wait. All memory that
//! hardware is to reach goes to the keeper before hardware hears of it, by
//! [parcels](crate::platform::linux::parcel), and from there to the next process.
//!
//! `SIGTERM` and `SIGINT` are passed on as `SIGTERM`; then the keeper ends with the exit code of the process that serves. The
//! units go on translating by what is then free memory, as they do after an end of the whole system.
//!
//! With `--sim` there is one process: the simulated machine ends with it, and nothing is left to adopt.
//!
//! # When one of them is killed
//!
//! The one that serves: the next one comes and adopts what it left. The keeper: the one that serves sees that their socket
//! is closed, starts another and gives it all the memory. Both: memory that the units walk and devices reach is free, as
//! far as no client has it mapped. Only what this platform is for allows that: its memory is in huge pages, which nobody else
//! takes in a guest that runs tests. The next iommud that is started stops all devices before it takes any of that memory, and only then has the units
//! forget what they walked.

pub mod error;
pub mod keeper;
pub mod server;
pub mod store;

use std::env;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};

pub use error::Error;
use keeper::SERVER_VARIABLE;

use super::hand_over::{HAND_OVER_VARIABLE, HandOver, NotByKeeper};
use super::options::Options;
use super::policy;
use crate::transport::socket::Listener;

/// Serves, watches over who does, or checks a policy. The exit code.
///
/// # Errors
///
/// Whatever keeps the daemon from serving.
pub fn run(options: &Options) -> Result<u8, Error> {
    if let Some(file) = &options.check_policy {
        // Nobody is left to tell if the answer cannot be printed; the exit code says it, too.
        let _ = io::stdout().write_all(policy::check(file)?.as_bytes());
        return Ok(0);
    }
    if let Ok(value) = env::var(HAND_OVER_VARIABLE) {
        let left: HandOver = value.parse()?;
        return server::serve(options, &left).map(|()| 0);
    }
    if let Ok(value) = env::var(SERVER_VARIABLE) {
        let left: HandOver = value.parse()?;
        return keeper::take_over(&left, &options.socket());
    }
    // Before any hardware is touched: two daemons on one IOMMU would undo each other's work.
    let listener = Listener::bind(&options.socket())?;
    if options.sim {
        server::simulate(options, listener).map(|()| 0)
    } else {
        keeper::keep(&listener)
    }
}

/// Takes over a descriptor that whoever started this process left to it.
fn inherited(number: usize) -> Result<OwnedFd, Error> {
    let number = i32::try_from(number).ok().filter(|number| *number > 2).ok_or(NotByKeeper)?;
    // SAFETY: the descriptor was left to this process for nothing but this.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC).map_err(|_| NotByKeeper)?;
    Ok(descriptor)
}
