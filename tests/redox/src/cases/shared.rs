//! A buffer that another process may look at, because it was passed a handle that says so.

use std::process::Command;

use agent::failure::{Failure, Outcome, require};
use agent::programs::Program;
use agent::traces::Traces;
use driver_platform::let_inherit;
use libdma::Access;
use libdma::protocol::Rights;

use crate::driving::{Courier, LENGTH, drive};
use crate::lent::{BYTES, LENT, NO_WRITING, PLACE, READS};
use crate::machine::Machine;

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
    command.args([LENT, &handle.raw().number().to_string()]);
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

fn expect(line: &str, bytes: &[u8; LENGTH]) -> Outcome {
    let expected = format!("{READS}{}", String::from_utf8_lossy(bytes));
    require!(line == expected, "it said {line:?} and not {expected:?}");
    Ok(())
}
