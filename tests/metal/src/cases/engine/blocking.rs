//! What is not mapped, or not so, does not arrive, and is reported with device, address and direction.

use dma_types::Access;
use iommu_engine::fault::Tried;
use libdma::Buffer;

use super::rig::{map, with_service};
use crate::edu::Direction;
use crate::harness::{Context, Outcome};
use crate::require;

const MARK: [u8; 16] = *b"was here before.";
const OTHER: [u8; 16] = *b"from the device!";

/// An address that nothing is mapped at: below where addresses are given out.
const OUTSIDE: u64 = 0x1234_5000;

pub(super) fn r1_a_device_that_nobody_holds_reaches_nothing(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        rig.transfer(Direction::FromDevice, OUTSIDE, 16)?;
        rig.expect_fault(OUTSIDE, Tried::Write)
    })
}

pub(super) fn r1_a_read_outside_is_blocked_and_reported(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(4096, Some(Access::ReadWrite), "inside")?;
        let iova = buffer.iova().unwrap_or_default();
        rig.load(&buffer, iova, &OTHER)?;
        rig.expect_no_fault()?;
        rig.transfer(Direction::ToDevice, OUTSIDE, 16)?;
        rig.expect_fault(OUTSIDE, Tried::Read)?;
        // A read that is blocked gives zeroes: nothing that is anybody's came to the device.
        rig.transfer(Direction::FromDevice, iova.get(), 16)?;
        expect(&buffer, &[0; 16], "what a blocked read brought")
    })
}

pub(super) fn r1_a_write_outside_is_blocked_and_reported(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(4096, Some(Access::ReadWrite), "inside")?;
        let canary = device.allocate(4096, None, "canary")?;
        canary.write(0, &MARK)?;
        let mapped = map(&device, &canary, Access::Write)?;
        device.unmap(&[mapped])?;
        rig.load(&buffer, buffer.iova().unwrap_or_default(), &OTHER)?;
        rig.transfer(Direction::FromDevice, mapped.iova.get(), 16)?;
        rig.expect_fault(mapped.iova.get(), Tried::Write)?;
        expect(&canary, &MARK, "a buffer that is not mapped any more")
    })
}

pub(super) fn r1_the_physical_address_is_no_way_round(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(4096, Some(Access::ReadWrite), "mine")?;
        let iova = buffer.iova().unwrap_or_default();
        let physical = rig.segments_of(iova)?[0].start.get();
        rig.load(&buffer, iova, &OTHER)?;
        buffer.write(0, &MARK)?;
        rig.transfer(Direction::FromDevice, physical, 16)?;
        rig.expect_fault(physical, Tried::Write)?;
        expect(&buffer, &MARK, "the buffer, written to by its physical address")
    })
}

pub(super) fn r6_direction_is_enforced_by_the_hardware(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(4096, None, "both ways")?;
        let read_only = map(&device, &buffer, Access::Read)?.iova;
        let write_only = map(&device, &buffer, Access::Write)?.iova;
        buffer.write(0, &MARK)?;
        // The wrong way first: QEMU 7.2 reports a fault only when it walks the tables. Once it has cached the
        // translation for the other direction it blocks, and says nothing.
        rig.transfer(Direction::FromDevice, read_only.get(), 16)?;
        rig.expect_fault(read_only.get(), Tried::Write)?;
        rig.load(&buffer, read_only, &OTHER)?;
        rig.expect_no_fault()?;
        buffer.write(0, &MARK)?;
        rig.transfer(Direction::FromDevice, read_only.get(), 16)?;
        expect(&buffer, &MARK, "a buffer that is mapped for reading")?;
        if !device.write_implies_read() {
            rig.transfer(Direction::ToDevice, write_only.get(), 16)?;
            rig.expect_fault(write_only.get(), Tried::Read)?;
            // What it had is gone all the same: a read that is blocked brings zeroes.
            rig.load(&buffer, read_only, &OTHER)?;
        }
        rig.transfer(Direction::FromDevice, write_only.get(), 16)?;
        expect(&buffer, &OTHER, "a buffer that is mapped for writing")?;
        rig.expect_no_fault()
    })
}

/// Whether a buffer starts with these bytes.
pub(super) fn expect(buffer: &Buffer, bytes: &[u8; 16], what: &str) -> Outcome {
    let mut found = [0; 16];
    buffer.read(0, &mut found)?;
    require!(found == *bytes, "{what} starts with {found:x?}, and not {bytes:x?}");
    Ok(())
}
