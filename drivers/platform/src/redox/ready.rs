//! Telling that the driver is ready.

use std::io::{self, Write};

use pcid_channel::READY_VARIABLE;

use super::inherited::inherited;
use crate::error::Error;

/// Tells pcid-spawner or init, whichever started this process, that the driver is ready.
///
/// # Errors
///
/// [`Error::System`].
pub fn report_ready() -> Result<(), Error> {
    let Some(mut pipe) = inherited(READY_VARIABLE) else { return Ok(()) };
    match pipe.write_all(&[0]) {
        // Init gives every service a pipe, and waits at the other end of some alone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told.map_err(Error::system(READY_VARIABLE)),
    }
}
