//! Transfers without end.

use core::convert::Infallible;
use std::io::Write;

use super::driver::Driver;
use super::error::Error;
use crate::edu::Direction;

/// How much each transfer moves.
const BYTES: usize = 2048;

/// Makes transfers there and back until the process is killed, which will then be in mid-transfer. Says
/// `holding` on `out` once the first has been started.
///
/// # Errors
///
/// [`Error::Iommud`], [`Error::Device`].
pub fn run(driver: &mut Driver, out: &mut dyn Write) -> Result<Infallible, Error> {
    let [to, from] = [Direction::ToDevice, Direction::FromDevice];
    let outgoing =
        driver.device().coherent("edud hold out").access(to.access()).alone().bytes(BYTES)?;
    let incoming =
        driver.device().coherent("edud hold in").access(from.access()).alone().bytes(BYTES)?;
    driver.start_transfer(to, outgoing.iova(), BYTES)?;
    writeln!(out, "holding I/O {} and {}", outgoing.iova(), incoming.iova())?;
    out.flush()?;
    loop {
        driver.wait()?;
        driver.start_transfer(from, incoming.iova(), BYTES)?;
        driver.wait()?;
        driver.start_transfer(to, outgoing.iova(), BYTES)?;
    }
}
