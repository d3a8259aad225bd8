//! A device that another process drives by a handle within bounds, until that is taken back.

use std::process::Command;
use std::thread;
use std::time::Duration;

use edud::Direction;
use libdma::fault::{Life, Tried};
use libdma::handle::DEVICE_VARIABLE;
use libdma::restricted::Revocable;
use libdma::{Access, Buffer, Device, Error, Fault, Iova};

use crate::devices::{Function, edu};
use crate::dma::transfer;
use crate::failure::{Outcome, require};
use crate::huge_pages::{self, HugePages};
use crate::other::{let_inherit, open};
use crate::programs::{Program, wait_until};
use crate::reports::{self, Mapping, wait_for_fault};
use crate::unit::Unit;

/// Where all must lie that is mapped by the handle.
const FIRST: u64 = 0x0100_0000;
const LAST: u64 = 0x01ff_ffff;

/// The most memory in buffers by the handle.
const BYTES: u64 = 1 << 20;

/// More than a transfer takes.
const TRANSFER: Duration = Duration::from_millis(150);

/// What the first process has in its own memory, and its device brings to the second half of it.
const MARK: [u8; 16] = *b"of who goes on..";
const HALF: usize = 2048;

/// The first process, and what it keeps when it takes the rest back.
struct Owner {
    function: Function,
    device: Device,
    own: Buffer,
}

/// A driver is at work by a handle that is taken back in the middle of a transfer, and one when it asks for more.
pub(crate) fn drivers_are_cut_off() -> Outcome {
    let function = edu()?;
    let device = open(&function)?;
    let own = device.allocate(4096, Some(Access::ReadWrite), "own")?;
    let owner = Owner { function, device, own };
    owner.in_a_transfer()?;
    owner.goes_on()?;
    owner.at_the_next_request()?;
    owner.goes_on()
}

impl Owner {
    /// Starts a driver of the device that has a handle within bounds and nothing else.
    fn start(&self, words: &[&str]) -> Outcome<(Program, Revocable)> {
        let bounds = self.device.restricted("part").buffer_bytes(BYTES);
        let (handle, part) = bounds.addresses(Iova::new(FIRST), Iova::new(LAST)).hand_out()?;
        let number = let_inherit(&handle)?;
        let mut command = Command::new("edud");
        command.args(words).env(DEVICE_VARIABLE, number.to_string());
        Ok((Program::from_command(command)?, part))
    }

    /// The driver asks for nothing more. Its device goes on and reaches nothing, while its memory stays its own.
    fn in_a_transfer(&self) -> Outcome {
        let (name, free) = (self.function.name(), huge_pages::free()?);
        let (mut driver, part) = self.start(&["--hold"])?;
        driver.wait_line("holding")?;
        let [incoming, outgoing] = ["edud hold in", "edud hold out"].map(reports::mapping);
        let (incoming, outgoing) = (incoming?, outgoing?);
        for Mapping { iova, label, .. } in [&incoming, &outgoing] {
            require!((FIRST..=LAST).contains(iova), "{label:?} is at {iova:#x}");
        }
        let ended = part.revoke()?;
        require!(ended == 3, "{ended} handles have ended, and not the device's and two buffers'");
        let left = reports::mappings()?;
        require!(left.len() == 1 && left[0].label == "own", "mapped is {left:x?}");

        let canary = HugePages::new(huge_pages::free()?)?;
        let is_kept = !canary.physical().contains(&incoming.physical);
        require!(is_kept, "the memory that the driver sees is given to others");
        wait_for_fault(&name, "write", incoming.iova)?;
        wait_for_fault(&name, "read", outgoing.iova)?;
        self.is_told_of(&incoming)?;
        thread::sleep(2 * TRANSFER);
        require!(canary.are_intact()?, "the device wrote to memory");
        drop(canary);

        driver.kill()?;
        wait_until("the driver's memory is back", || Ok(huge_pages::free()? == free))?;
        let canary = HugePages::new(free)?;
        transfer(&self.function, Direction::FromDevice, incoming.iova, 512)?;
        require!(canary.are_intact()?, "the device wrote to memory of before");
        Ok(())
    }

    /// Its own handle tells what the device reached by the other one until then, where the unit tells of anything.
    fn is_told_of(&self, mapping: &Mapping) -> Outcome {
        if !Unit::find()?.tells_what_it_blocks() {
            return Ok(());
        }
        let is_of_it = |fault: &Fault| {
            let behind = fault.behind.filter(|it| matches!(it.life, Life::Unmapped { .. }));
            fault.tried == Tried::Write
                && fault.address.get() == mapping.iova
                && behind.is_some_and(|it| it.label.as_str() == mapping.label && it.offset == 0)
        };
        wait_until("the owner is told of what was unmapped", || {
            Ok(self.device.events()?.faults().any(is_of_it))
        })
    }

    /// The driver asks for more and gives back, all the time.
    fn at_the_next_request(&self) -> Outcome {
        let (mut driver, part) = self.start(&["--traffic", "6"])?;
        driver.wait_line("traffic")?;
        thread::sleep(TRANSFER);
        let ended = part.revoke()?;
        require!(ended > 1, "{ended} handles have ended, and a buffer's is not among them");
        driver.finish()?.expect(1)?.line(&format!("edud: iommud: {}", Error::Revoked))?;
        let left = reports::mappings()?;
        require!(left.len() == 1 && left[0].label == "own", "mapped is {left:x?}");
        Ok(())
    }

    /// What was not taken back is as it was.
    fn goes_on(&self) -> Outcome {
        let place = self.own.iova().ok_or(Error::NotMapped)?.get();
        self.own.write(0, &MARK)?;
        self.own.write(HALF, &[0; 16])?;
        transfer(&self.function, Direction::ToDevice, place, 16)?;
        transfer(&self.function, Direction::FromDevice, place + HALF as u64, 16)?;
        let mut found = [0; 16];
        self.own.read(HALF, &mut found)?;
        require!(found == MARK, "the device has brought {found:x?}, and not {MARK:x?}");
        let more = self.device.allocate(4096, Some(Access::Read), "more")?;
        require!(more.iova().is_some(), "what came later is not mapped");
        Ok(())
    }
}
