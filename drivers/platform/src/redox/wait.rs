//! Waiting for a handle on Redox, by an event queue.
//!
//! A driver's own event queue would have the handle in it beside the device's interrupt. Here there is one for this
//! alone, and since event queues wait for ever, a clock that ends the wait.

use std::time::Duration;

use event::{EventFlags, RawEventQueue};
use libdma::Handle;
use libredox::Fd;
use libredox::call::clock_gettime;
use libredox::errno::EINTR;
use libredox::flag::{CLOCK_MONOTONIC, O_CLOEXEC, O_RDWR};

use crate::error::Error;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// What ends the wait.
#[derive(Clone, Copy)]
enum Wake {
    Handle,
    Clock,
}

/// Waits until a handle has something to be read; whether it has.
///
/// # Errors
///
/// [`Error::System`].
pub fn wait_readable(handle: &Handle, patience: Duration) -> Result<bool, Error> {
    let wait = || {
        let queue = RawEventQueue::new()?;
        let clock = Fd::open(&format!("/scheme/time/{CLOCK_MONOTONIC}"), O_RDWR | O_CLOEXEC, 0)?;
        clock.write(&later(patience)?)?;
        queue.subscribe(clock.raw(), Wake::Clock as usize, EventFlags::READ)?;
        queue.subscribe(handle.raw().number() as usize, Wake::Handle as usize, EventFlags::READ)?;
        loop {
            match queue.next_event() {
                // Something was told to this thread that is not about this.
                Err(error) if error.errno() == EINTR => {}
                event => return Ok(event?.user_data == Wake::Handle as usize),
            }
        }
    };
    wait().map_err(|error: libredox::error::Error| {
        Error::system("cannot wait for the handle")(error.into())
    })
}

/// The time after this long, as the time scheme wants it: seconds and nanoseconds of its clock, in 64 and 32
/// bits, and four bytes of nothing behind them.
fn later(patience: Duration) -> libredox::error::Result<[u8; 16]> {
    let now = clock_gettime(CLOCK_MONOTONIC)?;
    let nanoseconds = now.tv_nsec + i64::from(patience.subsec_nanos());
    let seconds = now.tv_sec + patience.as_secs() as i64 + nanoseconds / NANOS_PER_SECOND;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seconds.to_ne_bytes());
    bytes[8..12].copy_from_slice(&((nanoseconds % NANOS_PER_SECOND) as i32).to_ne_bytes());
    Ok(bytes)
}
