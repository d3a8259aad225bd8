//! What was given away and is taken back; and a device that is reset under its drivers.

use dma_types::{Access, Iova};
use iommu_engine::fault::Tried;
use iommu_engine::platform::ConfigSpace;
use libdma::protocol::Rights;
use libdma::{Device, Error, SharedBuffer};

use super::blocking::{MARK, OTHER, expect};
use super::rig::{map, with_service};
use super::sharing::{both, expect_read, place};
use crate::edu::Direction;
use crate::harness::{Context, Failure, Outcome};
use crate::platform::config::{capability, find};
use crate::require;

/// QEMU's NVMe controller (`include/hw/pci/pci.h`): what it has that `edu` has not is a reset of its function.
const NVME: (u16, u16) = (0x1b36, 0x0010);

/// MSI-X (PCI 3.0, 6.8.2), and the bit of its first dword that enables it.
const MSIX: u8 = 0x11;
const MSIX_ENABLE: u32 = 1 << 31;

/// Where a device's addresses are bounded to, in the masks of all machines.
const FIRST: Iova = Iova::new(0x0700_0000);
const LAST: Iova = Iova::new(0x0700_3fff);

pub(super) fn r2_a_share_that_was_revoked_is_out_of_each_devices_reach(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let before = rig.in_use();
        let (first_device, second, second_device) = both(rig)?;
        let own = second_device.allocate(8192, Some(Access::ReadWrite), "the second one's")?;
        let shared = first_device.allocate(4096, Some(Access::ReadWrite), "shared")?;
        let passed = SharedBuffer::from_handle(shared.share(Rights::BUFFER)?)?;
        let attached = passed.attach(&second_device, Access::Read, "attached")?;
        let (mine, yours) = (place(&shared), attached.io_address().for_device(&second_device)?);
        shared.write(0, &MARK)?;
        expect_read(rig, &second, yours, &own, &MARK)?;
        rig.expect_no_fault()?;

        // The handle that was passed on, and what was attached by it.
        let ended = shared.revoke_shares()?;
        require!(ended == 2, "{ended} handles ended");
        second.transfer(rig.service.lock().platform_mut(), Direction::ToDevice, yours.get(), 16)?;
        rig.expect_fault_of(&second, yours.get(), Tried::Read)?;
        let refused = passed.attach(&second_device, Access::Read, "once more").map(drop);
        require!(refused == Err(Error::Revoked), "attached once more: {refused:?}");
        // Who held it sees the memory until it is closed, and the first device reaches it.
        let mut seen = [0; 16];
        passed.read(0, &mut seen)?;
        require!(seen == MARK, "it sees {seen:x?}");
        rig.load(&shared, mine, &OTHER)?;
        rig.transfer(Direction::FromDevice, mine.get(), 16)?;
        rig.expect_no_fault()?;
        expect(&shared, &OTHER, "what the first device wrote")?;

        drop((shared, first_device));
        let kept = rig.in_use().runs;
        require!(kept > before.runs + 1, "what is seen was given back");
        drop((attached, passed, own, second_device));
        rig.expect_as_many_runs(&before)
    })
}

pub(super) fn r2_r3_a_handle_within_bounds_maps_there_until_it_is_revoked(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let own = device.allocate(8192, Some(Access::ReadWrite), "own")?;
        let (handle, taken) = device
            .restricted("part")
            .access(Access::Read)
            .addresses(FIRST, LAST)
            .buffer_bytes(8192)
            .hand_out()?;
        let part = Device::from_handle(handle)?;
        let refused = part.allocate(4096, Some(Access::Write), "to be written").map(drop);
        require!(refused == Err(Error::NotPermitted), "to be written: {refused:?}");
        let buffer = part.allocate(4096, Some(Access::Read), "to be read")?;
        let refused = part.allocate(8192, None, "too much").map(drop);
        require!(refused == Err(Error::QuotaExceeded), "too much: {refused:?}");
        let first = place(&buffer);
        let again = map(&part, &buffer, Access::Read)?.iova();
        for at in [first, again] {
            require!((FIRST..=LAST).contains(&at), "it is at {at}");
            rig.load(&buffer, at, &MARK)?;
            rig.transfer(Direction::FromDevice, place(&own).get(), 16)?;
            expect(&own, &MARK, "what was read within bounds")?;
        }
        rig.expect_no_fault()?;
        // Cached by use. It is gone when this returns.
        taken.revoke()?;
        for at in [first, again] {
            rig.expect_blocked_read(at.get(), &own)?;
        }
        let refused = part.allocate(4096, None, "more").map(drop);
        require!(refused == Err(Error::Revoked), "more: {refused:?}");
        Ok(())
    })
}

pub(super) fn a_device_is_reset_and_its_holders_learn_of_it(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let (function, msix) = {
            let mut service = rig.service.lock();
            let platform = service.platform_mut();
            let found = find(platform, NVME.0, NVME.1).into_iter().next();
            let function = found.ok_or(Failure("there is no NVMe controller".into()))?;
            let msix = capability(platform, function, MSIX).ok_or(Failure("no MSI-X".into()))?;
            (function, msix)
        };
        let config = |offset| rig.service.lock().platform_mut().config_read(function, offset);
        let write = |offset, value| {
            rig.service.lock().platform_mut().config_write(function, offset, value);
        };
        let device = Device::open(rig.transport(), function)?;
        let other = Device::from_handle(device.derive(Rights::DEVICE)?)?;
        let queue = device.allocate(4096, Some(Access::ReadWrite), "queue")?;
        queue.write(0, &MARK)?;
        // What is the system's, and what is its driver's.
        write(0x3c, 0x0b);
        write(4, 4);
        write(msix, config(msix) | MSIX_ENABLE);
        let (bar, before) = (config(0x10), device.generation());
        require!(config(msix) & MSIX_ENABLE != 0, "MSI-X is not to be enabled");

        device.reset()?;
        require!(config(msix) & MSIX_ENABLE == 0, "it was not reset");
        require!(config(4) & 4 == 0, "it masters the bus");
        let after = (config(0x10), config(0x3c) & 0xff);
        require!(after == (bar, 0x0b), "its BAR and line are {after:x?}");
        require!(device.generation() > before, "its generation is {}", device.generation());
        expect(&queue, &MARK, "its memory")?;
        let refused = other.allocate(4096, None, "of before").map(drop);
        require!(refused == Err(Error::DeviceReset), "the other holder: {refused:?}");
        require!(other.renew()? == device.generation(), "it is of another generation");
        drop(other.allocate(4096, None, "of now")?);

        // `edu` has no such reset.
        let edu = rig.open()?;
        let refused = edu.reset();
        require!(refused == Err(Error::NoReset), "edu: {refused:?}");
        Ok(())
    })
}
