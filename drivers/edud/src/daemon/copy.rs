//! The main job: data to the device and back.

use std::io::Write;

use super::driver::Driver;
use super::error::Error;
use crate::edu::Direction;
use crate::registers::TRANSFER_END;

/// How many words one transfer moves: as many as the device takes.
const WORDS: usize = TRANSFER_END as usize / size_of::<u64>();
const BYTES: usize = WORDS * size_of::<u64>();

/// Copies data to the device and back `rounds` times, each time other data, and checks what came back. One
/// line on `out` for each round, and what `beside` has to say.
///
/// # Errors
///
/// [`Error::Corrupt`] for the first word that differs; [`Error::Iommud`], [`Error::Device`]; those of `beside`.
pub fn run(
    driver: &mut Driver,
    rounds: u32,
    out: &mut dyn Write,
    mut beside: impl FnMut(&mut dyn Write) -> Result<(), Error>,
) -> Result<(), Error> {
    // The device may only read the one and only write the other.
    let outgoing = driver
        .device()
        .coherent("edud out")
        .access(Direction::ToDevice.access())
        .alone()
        .slice::<u64>(WORDS)?;
    let incoming = driver
        .device()
        .coherent("edud in")
        .access(Direction::FromDevice.access())
        .alone()
        .slice::<u64>(WORDS)?;
    for round in 1..=rounds {
        for index in 0..WORDS {
            outgoing.write(index, word(round, index))?;
            incoming.write(index, 0)?;
        }
        driver.transfer(Direction::ToDevice, outgoing.iova(), BYTES)?;
        // Now only the device has it.
        for index in 0..WORDS {
            outgoing.write(index, 0)?;
        }
        driver.transfer(Direction::FromDevice, incoming.iova(), BYTES)?;
        for index in 0..WORDS {
            let (expected, found) = (word(round, index), incoming.read(index)?);
            if found != expected {
                let iova = incoming.iova_of(index).unwrap_or(incoming.iova());
                return Err(Error::Corrupt { index, iova, expected, found });
            }
        }
        writeln!(
            out,
            "round {round}/{rounds}: {BYTES} bytes to the device from I/O {} (CPU {}), \
             back to I/O {} (CPU {}): intact",
            outgoing.iova(),
            outgoing.cpu_address(),
            incoming.iova(),
            incoming.cpu_address(),
        )?;
        beside(out)?;
    }
    Ok(())
}

/// A word that differs from all others of all rounds, in most of its bits, and is not zero.
fn word(round: u32, index: usize) -> u64 {
    // Multiplying by an odd number (2^64 divided by the golden ratio) keeps different words different.
    (u64::from(round) << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
