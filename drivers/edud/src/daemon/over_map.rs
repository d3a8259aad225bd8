//! Asking for more than one's own.

use std::io::Write;

use dma_types::{Access, PAGE_SIZE};
use libdma::MapRequest;

use super::driver::Driver;
use super::error::Error;
use super::run::Outcome;

/// Asks iommud to map more than a buffer's length, for the device and for this process, and reports the
/// answers on `out`.
///
/// # Errors
///
/// [`Error::OtherRefusal`] if it was not for the size that it was refused; [`Error::Iommud`] if there is no
/// buffer to try it with.
pub fn run(driver: &Driver, out: &mut dyn Write) -> Result<Outcome, Error> {
    let buffer = driver.device().allocate(PAGE_SIZE, None, "edud over-map")?;
    let bytes = buffer.len() as u64 + PAGE_SIZE;
    let for_device = driver
        .device()
        .map(&[MapRequest { buffer: &buffer, offset: 0, bytes, access: Access::ReadWrite }])
        .map(drop);
    let handle = buffer.handle();
    let for_cpu = handle.map_buffer(bytes as usize, true).map(|mapping| {
        // SAFETY: it was mapped just now, and nobody has used it.
        unsafe { handle.transport().unmap(mapping) }
    });
    let mut outcome = Outcome::Well;
    let length = buffer.len();
    for (what, answer) in [
        ("mapping a buffer beyond its end for the device", for_device),
        ("mapping a buffer beyond its end for this process", for_cpu),
    ] {
        match answer {
            Err(error @ libdma::Error::OutOfBuffer) => {
                writeln!(out, "{what} ({bytes} bytes of {length}): refused: {error}")?;
            }
            Err(error) => return Err(Error::OtherRefusal { what, error }),
            Ok(()) => {
                writeln!(out, "{what} ({bytes} bytes of {length}): NOT REFUSED")?;
                outcome = Outcome::WentThrough;
            }
        }
    }
    Ok(outcome)
}
