//! What was given to others and is taken back, and a device that is reset under its drivers.

use std::io;
use std::process::Command;

use agent::failure::{Failure, Outcome, require};
use agent::programs::Program;
use agent::reports::{self, wait_for_fault};
use agent::traces::Traces;
use edud::registers::ADDRESS_BITS;
use libdma::protocol::Rights;
use libdma::{Access, Device, Error, Iova};

use crate::driving::{Courier, LENGTH, drive, expect};
use crate::lent::{BYTES, PLACE};
use crate::machine::Machine;
use crate::passing::{let_receive, send};
use crate::second::{DEVICE_READS, IS_REVOKED, SEES, TAKEN};

/// Where what is within bounds lies; `edu` reaches it with the address bits that it has unless QEMU is told otherwise.
const FIRST: Iova = Iova::new(0x0700_0000);
const LAST: Iova = Iova::new(0x0700_3fff);

const MARK: [u8; LENGTH] = *b"until it is not!";
const OTHER: [u8; LENGTH] = *b"nothing of that.";

/// Another process has attached the buffer to its own device: that reaches it no more, and the process sees what it saw.
pub(super) fn a_share() -> Outcome {
    let (one, other) = (Machine::bench()?, Machine::second_bench()?);
    let before = Traces::now()?;
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new("iommu-selftest");
    command.args([TAKEN, &let_receive(&reader)?, &other.device, &ADDRESS_BITS.to_string()]);
    let mut second = Program::from_command(command)?;
    drop(reader);

    let mut courier = Courier::new(drive(&one)?)?;
    let device = courier.driver.device().clone();
    let buffer = device.allocate(BYTES as u64, Some(Access::ReadWrite), "taken back")?;
    buffer.write(PLACE, &MARK)?;
    let handle = buffer.share(Rights::READ | Rights::INSPECT | Rights::SHARE)?;
    send(&writer, &handle)?;
    drop(handle);
    let line = second.wait_line(DEVICE_READS)?;
    require!(line.ends_with(&*String::from_utf8_lossy(&MARK)), "it said {line:?}");
    // The handle that was passed, the attachment that was made of it, and one that the other may just be asking for.
    let ended = buffer.revoke_shares()?;
    require!((2..=3).contains(&ended), "{ended} handles ended");
    second.wait_line(IS_REVOKED)?;
    let line = second.wait_line(SEES)?;
    require!(line.ends_with(&*String::from_utf8_lossy(&MARK)), "it said {line:?}");
    second.finish()?.expect(0)?;

    // This device has what it had.
    let place = buffer.iova().and_then(|iova| iova.checked_add(PLACE as u64));
    let place = place.ok_or(Failure("it is not mapped".into()))?;
    expect(courier.fetch(place)?, &MARK, "what the first device read")?;
    drop((buffer, device, courier));
    before.wait_for_return()
}

/// By a handle within bounds nothing is mapped but there, and when it is revoked nothing is.
pub(super) fn within_bounds() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    let mut courier = Courier::new(drive(&bench)?)?;
    let device = courier.driver.device().clone();
    let (handle, taken) = device
        .restricted("part")
        .access(Access::Read)
        .addresses(FIRST, LAST)
        .buffer_bytes(2 * BYTES as u64)
        .hand_out()?;
    let part = Device::from_handle(handle)?;
    let refused = part.allocate(BYTES as u64, Some(Access::Write), "written").map(drop);
    require!(refused == Err(Error::NotPermitted), "to be written: {refused:?}");
    let buffer = part.allocate(BYTES as u64, Some(Access::Read), "part")?;
    let refused = part.allocate(2 * BYTES as u64, None, "too much").map(drop);
    require!(refused == Err(Error::QuotaExceeded), "too much: {refused:?}");
    let place = buffer.iova().ok_or(Error::NotMapped)?;
    require!((FIRST..=LAST).contains(&place), "it is at {place}");
    buffer.write(0, &MARK)?;
    expect(courier.fetch(place)?, &MARK, "what was read within bounds")?;

    taken.revoke()?;
    courier.load(&OTHER)?;
    let read: [u8; LENGTH] = courier.fetch(place)?;
    require!(read != MARK, "it is read still");
    let refused = part.allocate(4096, None, "more").map(drop);
    require!(refused == Err(Error::Revoked), "more: {refused:?}");
    let mut seen = [0; LENGTH];
    buffer.read(0, &mut seen)?;
    expect(seen, &MARK, "what its holder sees")?;
    // Its child, which is to be `iommuctl`, gets the mapping of what was revoked, too.
    wait_for_fault(bench.tells, &bench.device, "read", place.get())?;
    drop((buffer, part, taken, device, courier));
    before.wait_for_return()
}

/// `edu` cannot be reset; an NVMe controller that nobody drives is.
pub(super) fn by_a_reset() -> Outcome {
    let machine = Machine::look()?;
    let name = machine.free_nvme.ok_or_else(|| Failure("there is no NVMe".into()))?;
    let before = Traces::now()?;
    let address = name.parse().map_err(|_| Failure(format!("{name} is no PCI address")))?;
    let device = Device::open(driver_platform::connect()?, address)?;
    let other = Device::from_handle(device.derive(Rights::DEVICE)?)?;
    let queue = device.allocate(4096, Some(Access::Read), "queue")?;
    queue.write(0, &MARK)?;
    let generation = device.generation();
    device.reset()?;
    require!(device.generation() > generation, "its generation is {}", device.generation());
    let told = reports::device(&name)?.generation;
    require!(told == Some(device.generation()), "it is told to be {told:?}");
    let refused = other.allocate(4096, None, "of before").map(drop);
    require!(refused == Err(Error::DeviceReset), "the other holder: {refused:?}");
    require!(other.renew()? == device.generation(), "it is of another generation");
    drop(other.allocate(4096, None, "of now")?);
    let mut kept = [0; LENGTH];
    queue.read(0, &mut kept)?;
    expect(kept, &MARK, "its memory")?;
    let bench = Machine::bench()?;
    let edu = drive(&bench)?;
    let refused = edu.device().reset();
    require!(refused == Err(Error::NoReset), "edu: {refused:?}");
    drop((queue, other, device, edu));
    before.wait_for_return()
}
