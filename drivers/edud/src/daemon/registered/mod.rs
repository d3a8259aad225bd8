//! Memory that edud has already, made a buffer; and what is refused when it is asked for.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `linux` | what must be refused on Linux |
//! | `redox` | what must be refused on Redox |

use std::io::Write;

use dma_types::PAGE_SIZE;
use libdma::{Access, Buffer, ForeignMemory, MapRequest};

use super::driver::Driver;
use super::error::Error;
use super::run::Outcome;
use crate::edu::Direction;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "redox")]
mod redox;

#[cfg(target_os = "linux")]
use linux::refusals;
#[cfg(target_os = "redox")]
pub use redox::object;
#[cfg(target_os = "redox")]
use redox::refusals;

const PAGE: usize = PAGE_SIZE as usize;
/// Two pages: the device reads the first and writes the second.
const BYTES: usize = 2 * PAGE;
/// How much of a page a transfer moves: as much as the device takes.
const MOVED: usize = PAGE - 8;

/// What was sent, what iommud is to answer, and what it answered.
type Refusal = (&'static str, libdma::Error, Result<(), libdma::Error>);

/// Has the device read and write registered memory, then sends iommud what it must refuse, and says how that went.
///
/// # Errors
///
/// [`Error::Corrupt`], [`Error::OtherRefusal`]; [`Error::Iommud`], [`Error::Device`], [`Error::Platform`].
pub fn run(driver: &mut Driver, out: &mut dyn Write) -> Result<Outcome, Error> {
    let memory = ForeignMemory::new(BYTES)?;
    let bytes: Vec<_> = (0..BYTES).map(pattern).collect();
    memory.write(0, &bytes)?;
    let device = driver.device().clone();
    let register = device.register(memory, Some(Access::ReadWrite), "edud registered");
    let buffer = register.map_err(libdma::Error::from)?;
    check(&buffer, 0, 0)?;
    let start = buffer.iova().ok_or(libdma::Error::NotMapped)?;
    let second = start.checked_add(PAGE_SIZE).ok_or(libdma::Error::Overflow)?;
    driver.transfer(Direction::ToDevice, start, MOVED)?;
    driver.transfer(Direction::FromDevice, second, MOVED)?;
    check(&buffer, PAGE, 0)?;
    let place = buffer.cpu_address();
    writeln!(out, "registered memory at CPU {place}, I/O {start}: read and written by the device")?;
    pieces(driver, out)?;

    let mut outcome = Outcome::Well;
    for (what, expected, answer) in refusals(&device, &buffer)? {
        match answer {
            Err(error) if error == expected => writeln!(out, "{what}: refused: {error}")?,
            Err(error) => return Err(Error::OtherRefusal { what, error }),
            Ok(()) => {
                writeln!(out, "{what}: NOT REFUSED")?;
                outcome = Outcome::WentThrough;
            }
        }
    }
    check(&buffer, PAGE, 0)?;
    Ok(outcome)
}

/// Has the device use pieces of registered memory, each mapped for itself in one call.
fn pieces(driver: &mut Driver, out: &mut dyn Write) -> Result<(), Error> {
    let memory = ForeignMemory::new(BYTES)?;
    let bytes: Vec<_> = (0..PAGE).map(pattern).collect();
    memory.write(PAGE, &bytes)?;
    let device = driver.device().clone();
    let buffer = device.register(memory, None, "edud pieces").map_err(libdma::Error::from)?;
    let piece = |page: u64, access| MapRequest {
        buffer: &buffer,
        offset: page * PAGE_SIZE,
        bytes: PAGE_SIZE,
        access,
    };
    let mapped = device.map(&[piece(0, Access::Write), piece(1, Access::Read)])?;
    let [first, second] = mapped[..] else { return Err(libdma::Error::NotMapped.into()) };
    driver.transfer(Direction::ToDevice, second.iova(), MOVED)?;
    driver.transfer(Direction::FromDevice, first.iova(), MOVED)?;
    check(&buffer, 0, 0)?;
    device.unmap(&mapped)?;
    writeln!(out, "pieces of registered memory, mapped in one call: read and written")?;
    Ok(())
}

/// A byte that differs between the pages.
fn pattern(index: usize) -> u8 {
    (index.wrapping_mul(7) ^ (index / PAGE).wrapping_mul(0x55)) as u8
}

/// Checks that a page of the buffer has what is told.
fn check(buffer: &Buffer, at: usize, pattern_from: usize) -> Result<(), Error> {
    let mut found = [0; MOVED];
    buffer.read(at, &mut found)?;
    let wrong =
        found.iter().enumerate().find(|(index, byte)| **byte != pattern(pattern_from + index));
    match wrong {
        None => Ok(()),
        Some((index, byte)) => Err(Error::Corrupt {
            index: at + index,
            iova: buffer.iova().unwrap_or_default(),
            expected: pattern(pattern_from + index).into(),
            found: (*byte).into(),
        }),
    }
}
