//! What is not mapped, or not so, does not arrive, and is reported with device, address and direction.

use dma_types::Access;
use iommu_engine::fault::Tried;
use libdma::Buffer;

use super::canary::Canary;
use super::rig::{map, with_service};
use crate::edu::Direction;
use crate::harness::{Context, Outcome};
use crate::require;

/// What is in memory that a device should not reach.
pub(in crate::cases) const MARK: [u8; 16] = *b"was here before.";
/// What a device brings there if it can.
pub(in crate::cases) const OTHER: [u8; 16] = *b"from the device!";

pub(super) fn r1_a_device_that_nobody_holds_reaches_nothing(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let canary = Canary::new(rig)?;
        rig.transfer(Direction::FromDevice, canary.address(), 16)?;
        rig.expect_fault(canary.address(), Tried::Write)?;
        canary.check()?;
        rig.transfer(Direction::ToDevice, canary.address(), 16)?;
        rig.expect_fault(canary.address(), Tried::Read)?;
        // Whoever opens it finds nothing in it.
        let device = rig.open()?;
        let buffer = device.allocate(4096, Some(Access::ReadWrite), "inside")?;
        rig.transfer(Direction::FromDevice, buffer.iova().unwrap_or_default().get(), 16)?;
        expect(&buffer, &[0; 16], "what a blocked read brought")
    })
}

pub(super) fn r1_a_read_outside_is_blocked_and_reported(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(4096, Some(Access::ReadWrite), "inside")?;
        rig.expect_blocked_read(Canary::new(rig)?.address(), &buffer)
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
        rig.transfer(Direction::FromDevice, mapped.iova().get(), 16)?;
        rig.expect_fault(mapped.iova().get(), Tried::Write)?;
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

pub(super) fn r6_a_read_only_mapping_is_enforced(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(4096, None, "read only")?;
        let iova = map(&device, &buffer, Access::Read)?.iova();
        buffer.write(0, &MARK)?;
        // The wrong way first: QEMU 7.2 reports a fault only when it walks the tables. Once it has cached the
        // translation for the other direction it blocks, and says nothing.
        rig.transfer(Direction::FromDevice, iova.get(), 16)?;
        rig.expect_fault(iova.get(), Tried::Write)?;
        rig.load(&buffer, iova, &OTHER)?;
        rig.expect_no_fault()?;
        buffer.write(0, &MARK)?;
        rig.transfer(Direction::FromDevice, iova.get(), 16)?;
        expect(&buffer, &MARK, "a buffer that is mapped for reading")
    })
}

/// QEMU 7.2's VT-d has no zero-length reads, and so cannot: there this shows that the driver is told so, and
/// that the register says the same.
pub(super) fn r6_a_write_only_mapping_is_enforced_or_said_to_be_impossible(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(4096, None, "write only")?;
        let iova = map(&device, &buffer, Access::Write)?.iova();
        let can = rig.hardware().can_map_write_only();
        require!(can != device.write_implies_read(), "what the driver is told is not what is");
        buffer.write(0, &MARK)?;
        rig.transfer(Direction::ToDevice, iova.get(), 16)?;
        if can { rig.expect_fault(iova.get(), Tried::Read) } else { rig.expect_no_fault() }?;
        rig.transfer(Direction::FromDevice, iova.get(), 16)?;
        rig.expect_no_fault()?;
        let brought = if can { [0; 16] } else { MARK };
        expect(&buffer, &brought, "what the device read and wrote back")
    })
}

/// Whether a buffer starts with these bytes.
pub(super) fn expect(buffer: &Buffer, bytes: &[u8; 16], what: &str) -> Outcome {
    let mut found = [0; 16];
    buffer.read(0, &mut found)?;
    require!(found == *bytes, "{what} starts with {found:x?}, and not {bytes:x?}");
    Ok(())
}
