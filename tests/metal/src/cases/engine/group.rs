//! Two devices that no unit can keep apart: they ask in one name, or reach each other past it.

use alloc::vec::Vec;

use dma_types::{Access, Iova};
use iommu_engine::fault::Tried;
use libdma::{Buffer, Device};

use super::blocking::{MARK, OTHER, expect};
use super::canary::Canary;
use super::rig::{Rig, with_service};
use crate::edu::{Direction, Edu};
use crate::harness::{Context, Outcome};
use crate::require;

pub(super) fn devices_that_cannot_be_kept_apart_are_confined_as_one(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let second = Edu::find_second(rig.service.lock().platform_mut())?;
        let groups: Vec<_> = [rig.edu, second]
            .iter()
            .map(|edu| rig.service.lock().engine().group(edu.function()).map(|it| it.spec.clone()))
            .collect();
        require!(groups[0].is_some() && groups[0] == groups[1], "the groups are {groups:?}");
        let first_device = rig.open()?;
        let mine = first_device.allocate(4096, Some(Access::ReadWrite), "the first one's")?;
        let my_place = mine.iova().unwrap_or_default().get();
        rig.load(&mine, mine.iova().unwrap_or_default(), &OTHER)?;

        let second_device = open(rig, &second)?;
        let its = second_device.allocate(4096, Some(Access::ReadWrite), "the second one's")?;
        let its_place = its.iova().unwrap_or_default().get();
        require!(my_place != its_place, "both have {my_place:#x}");
        // What is one's is the other's, and nobody may be surprised by it: it says so in `iommuctl groups`.
        copy(rig, &second, &mine, my_place, &its, its_place)?;
        rig.expect_no_fault()?;

        // When one goes, the other keeps what is its own, and no more.
        drop((mine, first_device));
        rig.in_use();
        second_transfer(rig, &second, Direction::ToDevice, my_place)?;
        rig.expect_fault_of(&second, my_place, Tried::Read)?;
        copy(rig, &second, &its, its_place, &its, its_place)?;
        rig.expect_no_fault()?;

        drop((its, second_device));
        rig.in_use();
        let second = Edu::find_second(rig.service.lock().platform_mut())?;
        let canary = Canary::new(rig)?;
        second_transfer(rig, &second, Direction::FromDevice, canary.address())?;
        rig.expect_fault_of(&second, canary.address(), Tried::Write)?;
        canary.check()
    })
}

/// That devices behind ports which send their requests up to the unit have a domain each, and reach nothing of each
/// other's.
pub(super) fn devices_behind_ports_with_acs_are_kept_apart(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let second = Edu::find_second(rig.service.lock().platform_mut())?;
        let (first_device, second_device) = (rig.open()?, open(rig, &second)?);
        let mine = first_device.allocate(4096, Some(Access::ReadWrite), "the first one's")?;
        // Two pages, so that they lie at other addresses than the first one's.
        let its = second_device.allocate(8192, Some(Access::ReadWrite), "the second one's")?;
        let (my_place, its_place) =
            (mine.iova().unwrap_or_default(), its.iova().unwrap_or_default());
        mine.write(0, &MARK)?;
        copy(rig, &second, &its, its_place.get(), &its, its_place.get())?;
        rig.load(&mine, my_place, &MARK)?;
        rig.expect_no_fault()?;
        let beyond = Iova::new(its_place.get() + 4096);
        rig.transfer(Direction::FromDevice, beyond.get(), 16)?;
        rig.expect_fault(beyond.get(), Tried::Write)?;
        expect(&its, &OTHER, "what the first device has no business with")?;
        let domains = rig.service.lock().engine().domains().count();
        require!(domains == 2, "there are {domains} domains");
        Ok(())
    })
}

/// Opens the second device, and lets it be a bus master, as its driver does.
pub(super) fn open(rig: &Rig, second: &Edu) -> Outcome<Device> {
    let device = Device::open(rig.transport(), second.function())?;
    Edu::find_second(rig.service.lock().platform_mut())?;
    Ok(device)
}

/// Lets the second device move bytes from the start of one buffer to the start of another.
fn copy(
    rig: &Rig,
    second: &Edu,
    from: &Buffer,
    from_place: u64,
    to: &Buffer,
    to_place: u64,
) -> Outcome {
    from.write(0, &OTHER)?;
    second_transfer(rig, second, Direction::ToDevice, from_place)?;
    to.write(0, &[0; 16])?;
    second_transfer(rig, second, Direction::FromDevice, to_place)?;
    expect(to, &OTHER, "the buffer that the second device wrote to")
}

pub(super) fn second_transfer(
    rig: &Rig,
    second: &Edu,
    direction: Direction,
    address: u64,
) -> Outcome {
    let mut service = rig.service.lock();
    Ok(second.transfer(service.platform_mut(), direction, address, 16)?)
}
