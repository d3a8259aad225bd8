//! A buffer that another process may look at, because it was passed a handle that says so.

use std::io;
use std::process::Command;

use agent::failure::{Failure, Outcome, require};
use agent::machine::Found;
use agent::programs::Program;
use agent::traces::Traces;
use driver_platform::let_inherit;
use edud::registers::ADDRESS_BITS;
use libdma::Access;
use libdma::protocol::Rights;

use crate::driving::{Courier, LENGTH, drive, drive_with};
use crate::lent::{BYTES, LENT, NO_WRITING, PLACE, READS};
use crate::machine::Machine;
use crate::passing::{let_receive, send};
use crate::second::{DEVICE_READS, SENT};

/// What is in the buffer when it is lent.
const MARK: [u8; LENGTH] = *b"of two processes";
/// What the device writes while it is.
const LATER: [u8; LENGTH] = *b"and of a device!";

pub(super) fn is_read_and_not_written() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    let mut courier = Courier::new(drive(&bench)?)?;
    let device = courier.driver.device().clone();
    let buffer = device.allocate(BYTES as u64, Some(Access::Write), "lent")?;
    buffer.write(PLACE, &MARK)?;
    let place = buffer.iova().and_then(|iova| iova.checked_add(PLACE as u64));
    let place = place.ok_or(Failure("it is not mapped".into()))?;

    let handle = buffer.share(Rights::READ | Rights::INSPECT)?;
    let_inherit(&handle)?;
    let mut command = Command::new("iommu-selftest");
    command.arg(LENT).env(driver_platform::LENT_VARIABLE, handle.raw().number().to_string());
    let mut other = Program::from_command(command)?;
    drop(handle);
    expect(&other.wait_line(READS)?, &MARK)?;
    other.wait_line(NO_WRITING)?;
    courier.carry(&LATER, place)?;
    let end = other.finish()?.expect(0)?;
    expect(end.lines.last().map_or("", String::as_str), &LATER)?;

    drop((buffer, device, courier));
    before.wait_for_return()
}

/// It is sent to a process that runs already, which has its own device read it.
pub(super) fn is_sent_and_attached_to_a_second_device() -> Outcome {
    let (one, other) = (Machine::bench()?, Machine::second_bench()?);
    let bits = match Machine::look()?.found {
        // Addresses are physical ones there.
        Found::Nothing => u64::BITS,
        Found::Vtd | Found::AmdVi => ADDRESS_BITS,
    };
    let before = Traces::now()?;
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new("iommu-selftest");
    command.args([SENT, &let_receive(&reader)?, &other.device, &bits.to_string()]);
    let mut second = Program::from_command(command)?;
    drop(reader);

    let mut courier = Courier::new(drive_with(&one, bits)?)?;
    let device = courier.driver.device().clone();
    let buffer = device.allocate(BYTES as u64, Some(Access::Write), "sent")?;
    let place = buffer.iova().and_then(|iova| iova.checked_add(PLACE as u64));
    let place = place.ok_or(Failure("it is not mapped".into()))?;
    courier.carry(&MARK, place)?;
    let handle = buffer.share(Rights::READ | Rights::INSPECT | Rights::SHARE)?;
    send(&writer, &handle)?;
    drop(handle);
    let line = second.wait_line(DEVICE_READS)?;
    require!(line.ends_with(&*String::from_utf8_lossy(&MARK)), "it said {line:?}");
    courier.carry(&LATER, place)?;
    let end = second.finish()?.expect(0)?;
    let line = end.lines.last().map_or("", String::as_str);
    require!(line.ends_with(&*String::from_utf8_lossy(&LATER)), "it said {line:?}");

    drop((buffer, device, courier));
    before.wait_for_return()
}

fn expect(line: &str, bytes: &[u8; LENGTH]) -> Outcome {
    let expected = format!("{READS}{}", String::from_utf8_lossy(bytes));
    require!(line == expected, "it said {line:?} and not {expected:?}");
    Ok(())
}
