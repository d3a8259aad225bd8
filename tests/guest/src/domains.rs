//! A domain that one process makes, and another enters with its own device by a ticket.

use std::io::{self, Read, Write};

use edud::Direction;
use libdma::protocol::Ticket;
use libdma::{Access, Error, Iova, MapRequest};

use crate::devices::both_edus;
use crate::dma::transfer;
use crate::failure::{Outcome, require};
use crate::other::{Other, open, open_when_free};
use crate::programs::wait_until;
use crate::reports::{self, wait_for_fault};

/// The word by which this program is told to be the other process.
pub(crate) const WORD: &str = "enter-domain";

/// Where the buffer is for both devices.
const FIXED: Iova = Iova::new(0x5000_0000);

/// What is in the first half of the buffer, and comes to the second by the other's device.
const MARK: [u8; 16] = *b"in one domain...";
const HALF: usize = 2048;

/// The first process: it has a buffer at an address of its choice, and lets the other's device reach it there.
pub(crate) fn first() -> Outcome {
    let [function, second] = both_edus()?;
    let device = open(&function)?;
    let buffer = device.allocate(4096, None, "of two drivers")?;
    buffer.write(0, &MARK)?;
    let domain = device.new_domain("of two drivers").aperture(FIXED, 1 << 20).create()?;
    let whole = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
    domain.map_at(FIXED, &[whole])?;
    let inside = domain.attach(&device)?;

    let (reader, mut writer) = io::pipe()?;
    let mut other = Other::start(WORD, reader)?;
    writer.write_all(&domain.ticket()?.0)?;
    drop(writer);
    other.expect("its device is in the domain")?;
    other.expect("the ticket is used")?;
    other.expect("its device has read and written")?;
    expect(&buffer, HALF, &MARK)?;
    let devices = reports::domains()?;
    let found = devices.iter().find(|it| it.domain == domain.id()).map(|it| it.devices.len());
    require!(found == Some(2), "{found:?} devices are in the domain");

    // The other driver dies: its device has left, and this one goes on.
    drop(other);
    wait_until(
        "the other device is free",
        || Ok(reports::device(&second.name())?.state == "free"),
    )?;
    buffer.write(HALF, &[0; 16])?;
    transfer(&second, Direction::FromDevice, FIXED.get() + HALF as u64, 16)?;
    expect(&buffer, HALF, &[0; 16])?;
    wait_for_fault(&second.name(), "write", FIXED.get())?;
    transfer(&function, Direction::ToDevice, FIXED.get(), 16)?;
    transfer(&function, Direction::FromDevice, FIXED.get() + HALF as u64, 16)?;
    expect(&buffer, HALF, &MARK)?;
    inside.leave()?;
    Ok(())
}

fn expect(buffer: &libdma::Buffer, offset: usize, expected: &[u8; 16]) -> Outcome {
    let mut found = [0; 16];
    buffer.read(offset, &mut found)?;
    require!(found == *expected, "{found:x?} is at {offset}, and not {expected:x?}");
    Ok(())
}

/// The other process, which reads the ticket from its standard input.
pub(crate) fn other() -> Outcome {
    let mut ticket = Ticket([0; 16]);
    io::stdin().read_exact(&mut ticket.0)?;
    let [_, function] = both_edus()?;
    let device = open_when_free(&function)?;
    let inside = device.enter(&ticket)?;
    println!("its device is in the domain");
    let again = device.enter(&ticket).err();
    require!(again == Some(Error::BadTicket), "the ticket is answered by {again:?}");
    println!("the ticket is used");
    transfer(&function, Direction::ToDevice, FIXED.get(), 16)?;
    transfer(&function, Direction::FromDevice, FIXED.get() + HALF as u64, 16)?;
    println!("its device has read and written");
    // Until it is killed.
    loop {
        std::thread::park();
        let _ = &inside;
    }
}
