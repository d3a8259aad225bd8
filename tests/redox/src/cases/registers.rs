//! Registers of one device that another reaches.

use agent::failure::{Outcome, require};
use agent::reports::wait_for_fault;
use edud::Direction;
use libdma::{Access, Device, Error, Iova};

use crate::driving::{Courier, LENGTH, drive_with};
use crate::machine::Machine;

/// Registers of `edu` (QEMU's docs/specs/edu.rst): what it is, 32 bits, and where its transfers read from, 64 bits.
const IDENTIFICATION: u64 = 0x00;
const SOURCE: u64 = 0x80;

/// What the first two bytes of the first are.
const EDU: [u8; 2] = [0xed, 0x00];

/// What is written to the second.
const VALUE: [u8; 8] = *b"doorbell";

/// The second device reads and writes the first one's, until that one's driver goes.
pub(super) fn are_reached() -> Outcome {
    let (one, other) = (Machine::bench()?, Machine::second_bench()?);
    let confined = Machine::look()?.state_in_use() == "held";
    let bits = if confined { edud::registers::ADDRESS_BITS } else { u64::BITS };
    let first = Courier::new(drive_with(&one, bits)?)?;
    let mut second = Courier::new(drive_with(&other, bits)?)?;
    let device = first.driver.device();
    let beyond = device.offer_bar(0, 1 << 20, 4096, Access::Read).map(drop);
    require!(beyond == Err(Error::OutOfBuffer), "beyond the end of the BAR: {beyond:?}");
    let none = device.offer_bar(1, 0, 4096, Access::Read).map(drop);
    require!(none == Err(Error::NotRegisters), "a BAR that is not there: {none:?}");
    let ticket = device.offer_bar(0, 0, 4096, Access::ReadWrite)?;
    let window = second.driver.device().attach(&ticket, Access::ReadWrite, "the first one's")?;
    let at = |offset| -> Outcome<Iova> {
        Ok(window.io_address().at(offset)?.for_device(second.driver.device())?)
    };
    let (what, source) = (at(IDENTIFICATION)?, at(SOURCE)?);
    let found: [u8; 4] = second.fetch(what)?;
    require!(found.starts_with(&EDU), "the device there is {found:x?}");
    let mut bytes = [0; LENGTH];
    bytes[..VALUE.len()].copy_from_slice(&VALUE);
    second.load(&bytes)?;
    second.driver.transfer(Direction::FromDevice, source, VALUE.len())?;
    let found: [u8; VALUE.len()] = second.fetch(source)?;
    require!(found == VALUE, "the register holds {found:x?}");
    drop(first);
    if confined {
        second.driver.transfer(Direction::FromDevice, source, VALUE.len())?;
        wait_for_fault(other.tells, &other.device, "write", what.get())?;
    }
    Ok(())
}

/// An iommud that comes after one that was started by init knows what that one was told.
pub(super) fn are_known(device: &Device) -> Outcome {
    let beyond = device.offer_bar(0, 1 << 20, 4096, Access::Read).map(drop);
    require!(beyond == Err(Error::OutOfBuffer), "beyond the end of the BAR: {beyond:?}");
    Ok(device.offer_bar(0, 0, 4096, Access::Read).map(drop)?)
}

/// An iommud that was started by hand knows of none.
pub(super) fn are_unknown(device: &Device) -> Outcome {
    let refused = device.offer_bar(0, 0, 4096, Access::Read).map(drop);
    require!(refused == Err(Error::NotRegisters), "registers are offered: {refused:?}");
    Ok(())
}
