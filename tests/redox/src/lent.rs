//! The process that is lent a buffer: it was passed a handle by which it may look at it and no more.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use agent::failure::{Failure, Outcome, require};
use driver_platform::lent;
use libdma::protocol::Rights;
use libdma::{Error, SharedBuffer};

use crate::console::say;
use crate::driving::LENGTH;

/// The argument that asks for this.
pub(crate) const LENT: &str = "lent";

/// What is said before what is found in the buffer.
pub(crate) const READS: &str = "it reads: ";

/// What is said when neither memory nor rights could be had for writing.
pub(crate) const NO_WRITING: &str = "it may not write";

/// How long the buffer is.
pub(crate) const BYTES: usize = 8192;

/// How long the process waits for a change at most: those that are to be killed meanwhile are killed in much less.
const MOST_WAIT: Duration = Duration::from_secs(120);

/// Where in it something is to be read.
pub(crate) const PLACE: usize = 4096;

/// Looks at the buffer, tries to write, and looks again when it has changed.
pub(crate) fn look() -> ExitCode {
    match try_look() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(why)) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn try_look() -> Outcome {
    let handle = lent()?.ok_or(Failure("nothing was lent".into()))?;
    let writable = handle.map_buffer(BYTES, true).map(drop);
    require!(writable == Err(Error::NotPermitted), "mapping it for writing: {writable:?}");
    let shared = SharedBuffer::from_handle(handle)?;
    let first = told(&shared)?;
    let written = shared.write(0, &[1]);
    require!(written == Err(Error::NotPermitted), "writing to it: {written:?}");
    let more = shared.share(Rights::WRITE).map(drop);
    require!(more == Err(Error::NotPermitted), "a handle that may write: {more:?}");
    say(NO_WRITING);
    let end = Instant::now() + MOST_WAIT;
    while at_place(&shared)? == first {
        require!(Instant::now() < end, "it never changed");
        thread::sleep(Duration::from_millis(1));
    }
    told(&shared).map(drop)
}

fn told(shared: &SharedBuffer) -> Outcome<[u8; LENGTH]> {
    let found = at_place(shared)?;
    say(format_args!("{READS}{}", String::from_utf8_lossy(&found)));
    Ok(found)
}

fn at_place(shared: &SharedBuffer) -> Outcome<[u8; LENGTH]> {
    let mut found = [0; LENGTH];
    shared.read(PLACE, &mut found)?;
    Ok(found)
}
