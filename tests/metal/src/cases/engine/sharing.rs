//! Two devices and what they share: a buffer, and the registers of one of them.

use dma_types::{Access, Iova};
use iommu_engine::fault::Tried;
use libdma::{Attachment, Buffer, Device, Limits};

use super::blocking::{MARK, OTHER, expect};
use super::rig::{Rig, with_service};
use crate::edu::{Direction, Edu};
use crate::harness::{Context, Outcome};
use crate::require;

pub(super) fn r4_a_buffer_is_shared_until_the_last_device_lets_it_go(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let before = rig.in_use();
        let (first_device, second, second_device) = both(rig)?;
        let own = second_device.allocate(8192, Some(Access::ReadWrite), "the second one's")?;
        let shared = first_device.allocate(12288, Some(Access::ReadWrite), "shared")?;
        let attached = shared.attach(&second_device, Access::Read, "shared with the second")?;
        let mine = place(&shared);
        let yours = attached.io_address().for_device(&second_device)?;
        require!(attached.io_address().for_device(&first_device).is_err(), "it is of both");

        // It was attached for reading. (QEMU's unit blocks without a fault what it has cached for reading, so that this
        // comes first.)
        second.transfer(
            rig.service.lock().platform_mut(),
            Direction::FromDevice,
            yours.get(),
            16,
        )?;
        rig.expect_fault_of(&second, yours.get(), Tried::Write)?;

        // The first writes it, the second reads it.
        rig.load(&shared, mine, &MARK)?;
        shared.write(0, &[0; 16])?;
        rig.transfer(Direction::FromDevice, mine.get(), 16)?;
        expect_read(rig, &second, yours, &own, &MARK)?;
        rig.expect_no_fault()?;

        // The first driver goes: its device reaches nothing any more, and the second reads on.
        drop((shared, first_device));
        rig.in_use();
        expect_read(rig, &second, yours, &own, &MARK)?;
        rig.expect_no_fault()?;
        let first = Edu::find(rig.service.lock().platform_mut())?;
        first.transfer(rig.service.lock().platform_mut(), Direction::FromDevice, mine.get(), 16)?;
        rig.expect_fault_of(&first, mine.get(), Tried::Write)?;
        expect_read(rig, &second, yours, &own, &MARK)?;

        drop(attached);
        second.transfer(rig.service.lock().platform_mut(), Direction::ToDevice, yours.get(), 16)?;
        rig.expect_fault_of(&second, yours.get(), Tried::Read)?;
        drop((own, second_device));
        rig.expect_as_many_runs(&before)
    })
}

pub(super) fn r4_registers_that_are_offered_are_reached_until_their_driver_goes(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let (first_device, second, second_device) = both(rig)?;
        let own = second_device.allocate(8192, Some(Access::ReadWrite), "the second one's")?;
        let (registers, at) = attach_registers(rig, &first_device, &second_device)?;
        write_register(rig, &second, &own, at, VALUE)?;
        rig.expect_no_fault()?;

        own.write(0, &7_u64.to_le_bytes())?;
        move_word(rig, &second, Direction::ToDevice, place(&own))?;
        drop(first_device);
        rig.in_use();
        move_word(rig, &second, Direction::FromDevice, at)?;
        rig.expect_fault_of(&second, at.get(), Tried::Write)?;
        let found = rig.edu.source(rig.service.lock().platform_mut());
        require!(found == VALUE, "the register holds {found:#x}, and held {VALUE:#x}");
        drop((registers, own, second_device));
        Ok(())
    })
}

/// The driver that a buffer is shared with tells its device of pieces that this device takes.
pub(in crate::cases) fn a_shared_buffer_is_reached_in_segments_of_its_devices_limits(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let (first_device, second, mut second_device) = both(rig)?;
        second_device.set_limits(Limits::NONE.max_segment(3000).boundary(4096));
        let own = second_device.allocate(4096, Some(Access::ReadWrite), "the second one's")?;
        // Without an IOMMU it has the one address that it has.
        let shared = first_device.allocate(8192, Some(Access::ReadWrite), "shared")?;
        let attached = shared.attach(&second_device, Access::Read, "shared with the second")?;
        let mut done = 0;
        for segment in attached.segments() {
            let (start, bytes) = (segment.for_device(&second_device)?, segment.bytes());
            require!(bytes <= 3000, "a segment has {bytes} bytes");
            let last = start.get() + bytes - 1;
            require!(start.get() / 4096 == last / 4096, "{start} + {bytes} crosses a boundary");
            require!(segment.for_device(&first_device).is_err(), "it is of both");
            // The device reads the first and the last of it.
            for (offset, mark) in [(0, &MARK), (bytes - 16, &OTHER)] {
                shared.write((done + offset) as usize, mark)?;
                let from = start.checked_add(offset).unwrap_or_default();
                own.write(0, &[0; 16])?;
                move_bytes(rig, &second, Direction::ToDevice, from)?;
                move_bytes(rig, &second, Direction::FromDevice, place(&own))?;
                expect(&own, mark, "what the second device read")?;
            }
            done += bytes;
        }
        require!(done == 8192, "the segments are {done} bytes");
        rig.expect_no_fault()
    })
}

/// On a machine without an IOMMU, where memory has one address for all devices.
pub(in crate::cases) fn a_buffer_is_shared_at_its_one_address(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let before = rig.in_use();
        let (first_device, second, second_device) = both(rig)?;
        let own = second_device.allocate(8192, Some(Access::ReadWrite), "the second one's")?;
        let shared = first_device.allocate(12288, Some(Access::ReadWrite), "shared")?;
        let attached = shared.attach(&second_device, Access::Read, "shared with the second")?;
        let mine = place(&shared);
        let yours = attached.io_address().for_device(&second_device)?;
        require!(yours == mine, "it is at {mine} for one and at {yours} for the other");
        // The number would be the same; whose it is would not.
        require!(attached.io_address().for_device(&first_device).is_err(), "it is of both");

        rig.load(&shared, mine, &MARK)?;
        shared.write(0, &[0; 16])?;
        rig.transfer(Direction::FromDevice, mine.get(), 16)?;
        expect_read(rig, &second, yours, &own, &MARK)?;
        // The first driver goes. What the second one still reads is nobody else's.
        drop((shared, first_device));
        require!(rig.in_use().runs > before.runs, "the memory was given back");
        expect_read(rig, &second, yours, &own, &MARK)?;
        drop((attached, own, second_device));
        rig.expect_as_many_runs(&before)
    })
}

/// The same for registers.
pub(in crate::cases) fn registers_that_are_offered_are_at_their_one_address(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let (first_device, second, second_device) = both(rig)?;
        let own = second_device.allocate(8192, Some(Access::ReadWrite), "the second one's")?;
        let (registers, at) = attach_registers(rig, &first_device, &second_device)?;
        let written = write_register(rig, &second, &own, at, VALUE);
        drop(registers);
        written
    })
}

/// What is written to a register of the first device.
const VALUE: u64 = 0x1234_5678_9abc;

/// Has the second device reach the first one's registers: until that is dropped, and where it sees the register from which
/// the first one's transfers read.
fn attach_registers(
    rig: &Rig,
    first_device: &Device,
    second_device: &Device,
) -> Outcome<(Attachment, Iova)> {
    let ticket = first_device.offer_bar(0, 0, 4096, Access::Write)?;
    let attached = second_device.attach(&ticket, Access::Write, "the first one's registers")?;
    let at = attached.io_address().at(rig.edu.source_register() as u64)?;
    let at = at.for_device(second_device)?;
    Ok((attached, at))
}

/// Has the second device write to that register, and looks what is in it then.
fn write_register(rig: &Rig, second: &Edu, own: &Buffer, at: Iova, value: u64) -> Outcome {
    own.write(0, &value.to_le_bytes())?;
    move_word(rig, second, Direction::ToDevice, place(own))?;
    move_word(rig, second, Direction::FromDevice, at)?;
    let found = rig.edu.source(rig.service.lock().platform_mut());
    require!(found == value, "the register holds {found:#x}, and not {value:#x}");
    Ok(())
}

/// Opens both devices, and lets them be bus masters, as their drivers do.
pub(super) fn both(rig: &Rig) -> Outcome<(Device, Edu, Device)> {
    let second = Edu::find_second(rig.service.lock().platform_mut())?;
    let first_device = rig.open()?;
    let second_device = Device::open(rig.transport(), second.function())?;
    Edu::find_second(rig.service.lock().platform_mut())?;
    Ok((first_device, second, second_device))
}

pub(super) fn place(buffer: &Buffer) -> Iova {
    buffer.iova().unwrap_or_default()
}

/// Whether a device that reads there finds this, as it shows when it writes it to its own buffer.
pub(super) fn expect_read(
    rig: &Rig,
    edu: &Edu,
    from: Iova,
    own: &Buffer,
    expected: &[u8; 16],
) -> Outcome {
    own.write(0, &OTHER)?;
    edu.transfer(rig.service.lock().platform_mut(), Direction::ToDevice, from.get(), 16)?;
    let own_place = place(own).get();
    edu.transfer(rig.service.lock().platform_mut(), Direction::FromDevice, own_place, 16)?;
    expect(own, expected, "what the second device read")
}

fn move_bytes(rig: &Rig, edu: &Edu, direction: Direction, at: Iova) -> Outcome {
    Ok(edu.transfer(rig.service.lock().platform_mut(), direction, at.get(), 16)?)
}

fn move_word(rig: &Rig, edu: &Edu, direction: Direction, at: Iova) -> Outcome {
    Ok(edu.transfer(rig.service.lock().platform_mut(), direction, at.get(), 8)?)
}
