//! One device's address, given to another.

use dma_types::Access;
use libdma::pool::NotTaken;
use libdma::{Error, MapRequest, RawError};

use super::group::{open, second_transfer};
use super::rig::{Rig, with_service};
use crate::edu::{Direction, Edu};
use crate::harness::{Context, Failure, Outcome};
use crate::require;

/// What the first device writes, and the second does.
const MINE: [u8; 16] = *b"the first one's.";
const ITS: [u8; 16] = *b"the second one's";

pub(super) fn r3_an_address_is_given_back_to_its_own_device_and_no_other(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        mappings(rig)?;
        blocks(rig)?;
        rig.expect_no_fault()
    })
}

/// Both devices have a page at the same address, and each goes on to reach its own.
fn mappings(rig: &Rig) -> Outcome {
    let second = Edu::find_second(rig.service.lock().platform_mut())?;
    let (first_device, second_device) = (rig.open()?, open(rig, &second)?);
    let mine = first_device.allocate(4096, None, "the first one's")?;
    let its = second_device.allocate(4096, None, "the second one's")?;
    let piece = |buffer| MapRequest { buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
    let my_mapping = first_device.map(&[piece(&mine)])?;
    let its_mapping = second_device.map(&[piece(&its)])?;
    let place = my_mapping[0].iova().get();
    require!(its_mapping[0].iova().get() == place, "they are at {its_mapping:?} and {place:#x}");

    let refused = [first_device.unmap(&its_mapping), second_device.unmap(&my_mapping)];
    require!(refused == [Err(Error::WrongOwner); 2], "it is unmapped for the other: {refused:?}");
    mine.write(0, &MINE)?;
    its.write(0, &ITS)?;
    rig.transfer(Direction::ToDevice, place, 16)?;
    rig.transfer(Direction::FromDevice, place + 16, 16)?;
    second_transfer(rig, &second, Direction::ToDevice, place)?;
    second_transfer(rig, &second, Direction::FromDevice, place + 16)?;
    for (buffer, expected) in [(&mine, &MINE), (&its, &ITS)] {
        let mut found = [0; 16];
        buffer.read(16, &mut found)?;
        require!(&found == expected, "what the device wrote is {found:x?}");
    }
    first_device.unmap(&my_mapping)?;
    second_device.unmap(&its_mapping)?;
    Ok(())
}

/// Blocks of pools and raw memory, of which each device has the first.
fn blocks(rig: &Rig) -> Outcome {
    let second = Edu::find_second(rig.service.lock().platform_mut())?;
    let (first_device, second_device) = (rig.open()?, open(rig, &second)?);
    let commands = first_device.pool("commands").bytes(64)?;
    let frames = second_device.pool("frames").bytes(64)?;
    let (command, frame) = (commands.alloc()?.into_address(), frames.alloc()?.into_address());
    require!(command.iova() == frame.iova(), "they are at {command} and {frame}");
    let taken = frames.take(command).err();
    require!(matches!(taken, Some(NotTaken::WrongDevice(_))), "it is taken: {taken:?}");
    let freed = commands.free(frame);
    require!(matches!(freed, Err(NotTaken::WrongDevice(_))), "it is freed: {freed:?}");

    let mut stream = second_device.raw_stream("raw");
    let unmapped = stream.unmap_single(command, 64, Access::ReadWrite);
    require!(matches!(unmapped, Err(RawError::WrongDevice(_))), "it is unmapped: {unmapped:?}");
    let lost = |error| Failure(alloc::format!("{error}"));
    commands.free(command).map_err(lost)?;
    frames.free(frame).map_err(lost)
}
