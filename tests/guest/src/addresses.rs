//! A driver of two devices that gives one device's addresses to the other.

use edud::Direction;
use libdma::pool::NotTaken;
use libdma::{Access, Device, Error, MapRequest, RawError};

use crate::devices::both_edus;
use crate::dma::transfer;
use crate::failure::{Failure, Outcome, require};
use crate::other::{open, open_when_free};

/// What each device reads at its own address, and writes behind it.
const MARK: [u8; 16] = *b"its own, and no.";

/// The addresses are refused, and each device goes on to reach what is its own.
pub(crate) fn are_refused_by_another_device() -> Outcome {
    let functions = both_edus()?;
    let (disk, card) = (open_when_free(&functions[0])?, open(&functions[1])?);
    let devices = [&disk, &card];
    let mut buffers = Vec::new();
    for device in devices {
        buffers.push(device.allocate(4096, None, "its own")?);
    }
    let map = |device: &Device, buffer| {
        device.map(&[MapRequest { buffer, offset: 0, bytes: 4096, access: Access::ReadWrite }])
    };
    let mapped = [map(&disk, &buffers[0])?, map(&card, &buffers[1])?];
    let places = mapped.each_ref().map(|it| it[0].iova());
    let coincide = places[0] == places[1] || !disk.is_confined();
    require!(coincide, "they are at {places:x?}");
    let refused = [disk.unmap(&mapped[1]), card.unmap(&mapped[0])];
    require!(refused == [Err(Error::WrongOwner); 2], "it is unmapped for the other: {refused:?}");

    let commands = disk.pool("commands").bytes(64)?;
    let frames = card.pool("frames").bytes(64)?;
    let command = commands.alloc()?.into_address();
    let frame = frames.alloc()?.into_address();
    let taken = frames.take(command).err();
    require!(matches!(taken, Some(NotTaken::WrongDevice(_))), "it is taken: {taken:?}");
    let mut stream = card.raw_stream("raw");
    let unmapped = stream.unmap_single(command, 64, Access::ReadWrite);
    require!(matches!(unmapped, Err(RawError::WrongDevice(_))), "it is unmapped: {unmapped:?}");

    for (number, function) in functions.iter().enumerate() {
        let (buffer, place) = (&buffers[number], places[number].get());
        buffer.write(0, &MARK)?;
        transfer(function, Direction::ToDevice, place, 16)?;
        transfer(function, Direction::FromDevice, place + 16, 16)?;
        let mut found = [0; 16];
        buffer.read(16, &mut found)?;
        require!(found == MARK, "device {number} wrote {found:x?}");
        devices[number].unmap(&mapped[number])?;
    }
    let lost = |error| Failure(format!("{error}"));
    commands.free(command).map_err(lost)?;
    frames.free(frame).map_err(lost)
}
