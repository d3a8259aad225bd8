//! The process with the second device: it is sent another process's buffer, or told the ticket of its domain.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use agent::failure::{Failure, Outcome, require};
use agent::programs::PATIENCE;
use edud::Direction;
use edud::daemon::Driver;
use libdma::protocol::{Rights, Ticket};
use libdma::{Access, Error, Iova, SharedBuffer};

use crate::console::say;
use crate::driving::{LENGTH, drive_device};
use crate::lent::PLACE;
use crate::passing::receive;

/// The first argument that asks for a buffer to be waited for. The pipe's number follows, then the device and its
/// address bits.
pub(crate) const SENT: &str = "sent";

/// The same for a buffer that is taken back.
pub(crate) const TAKEN: &str = "taken";

/// The first argument that asks for a domain to be entered. The ticket follows, then the device.
pub(crate) const ENTERS: &str = "enters";

/// What is said before what the device has read.
pub(crate) const DEVICE_READS: &str = "its device reads: ";

/// What is said when the buffer was taken back.
pub(crate) const IS_REVOKED: &str = "it is taken back, and out of its device's reach";

/// What is said before what this process sees of it then.
pub(crate) const SEES: &str = "it sees: ";

/// What is said when the device has read and written in the domain, and the ticket is no good any more.
pub(crate) const HAS_ENTERED: &str = "its device was in the domain, and the ticket is used";

/// Where in the domain the buffer is; `edu` reaches it with the address bits that it has unless QEMU is told otherwise.
pub(crate) const SHARED_AT: Iova = Iova::new(0x0600_0000);

/// How far behind what it read the device writes it.
pub(crate) const HALF: u64 = 2048;

/// What it was told to do.
pub(crate) fn run(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(why)) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Attaches the buffer that it is sent to its own device, and has that read it twice: when it comes, and when it has
/// changed.
pub(crate) fn sent(pipe: &str, device: &str, bits: &str) -> Outcome {
    let bits = bits.parse().map_err(|_| Failure(format!("{bits:?} are no address bits")))?;
    let shared = SharedBuffer::from_handle(receive(pipe)?)?;
    let mut driver = drive_device(device, bits)?;
    let attached = shared.attach(driver.device(), Access::Read, "of another process")?;
    let from = attached.io_address().at(PLACE as u64)?.for_device(driver.device())?;
    let first = told(&mut driver, from)?;
    let end = Instant::now() + PATIENCE;
    let mut found = first;
    while found == first {
        require!(Instant::now() < end, "it never changed");
        thread::sleep(Duration::from_millis(1));
        shared.read(PLACE, &mut found)?;
    }
    told(&mut driver, from).map(drop)
}

/// Attaches the buffer that it is sent to its own device, has that read it, and once more when it was taken back.
pub(crate) fn taken(pipe: &str, device: &str, bits: &str) -> Outcome {
    let bits = bits.parse().map_err(|_| Failure(format!("{bits:?} are no address bits")))?;
    let shared = SharedBuffer::from_handle(receive(pipe)?)?;
    let mut driver = drive_device(device, bits)?;
    let attached = shared.attach(driver.device(), Access::Read, "to be taken back")?;
    let from = attached.io_address().at(PLACE as u64)?.for_device(driver.device())?;
    let first = told(&mut driver, from)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match shared.share(Rights::empty()).map(drop) {
            Err(Error::Revoked) => break,
            other => require!(other == Ok(()), "a handle to it: {other:?}"),
        }
        require!(Instant::now() < end, "it is never taken back");
        thread::sleep(Duration::from_millis(1));
    }
    let own = driver.device().coherent("read").bytes(LENGTH)?;
    driver.transfer(Direction::ToDevice, own.iova(), LENGTH)?;
    driver.transfer(Direction::ToDevice, from, LENGTH)?;
    driver.transfer(Direction::FromDevice, own.iova(), LENGTH)?;
    let mut found = [0; LENGTH];
    own.copy_to(0, &mut found)?;
    require!(found != first, "its device reads it still");
    say(IS_REVOKED);
    shared.read(PLACE, &mut found)?;
    say(format_args!("{SEES}{}", String::from_utf8_lossy(&found)));
    Ok(())
}

/// Says what the device reads at an address.
fn told(driver: &mut Driver, from: Iova) -> Outcome<[u8; LENGTH]> {
    let own = driver.device().coherent("read").bytes(LENGTH)?;
    driver.transfer(Direction::ToDevice, from, LENGTH)?;
    driver.transfer(Direction::FromDevice, own.iova(), LENGTH)?;
    let mut found = [0; LENGTH];
    own.copy_to(0, &mut found)?;
    say(format_args!("{DEVICE_READS}{}", String::from_utf8_lossy(&found)));
    Ok(found)
}

/// Enters a domain with its own device, and has that copy one half of what is there over the other.
pub(crate) fn enters(ticket: &str, device: &str) -> Outcome {
    let ticket = u128::from_str_radix(ticket, 16).map_err(|_| Failure("no ticket".into()))?;
    let ticket = Ticket(ticket.to_be_bytes());
    let mut driver = drive_device(device, edud::registers::ADDRESS_BITS)?;
    let inside = driver.device().enter(&ticket)?;
    let again = driver.device().enter(&ticket).map(drop);
    require!(again == Err(Error::BadTicket), "the ticket once more: {again:?}");
    let behind = SHARED_AT.checked_add(HALF).ok_or(Error::Overflow)?;
    driver.transfer(Direction::ToDevice, SHARED_AT, LENGTH)?;
    driver.transfer(Direction::FromDevice, behind, LENGTH)?;
    say(HAS_ENTERED);
    inside.leave()?;
    Ok(())
}
