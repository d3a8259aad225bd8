//! Addresses that a driver chooses, and domains that devices are moved into.

use dma_types::{Access, Iova};
use iommu_engine::fault::Tried;
use libdma::{Error, MapRequest, Mapped};

use super::blocking::{MARK, OTHER, expect};
use super::group::{open, second_transfer};
use super::rig::{Rig, with_service};
use crate::edu::{Direction, Edu};
use crate::harness::{Context, Outcome};
use crate::require;

/// Where nothing is mapped that nobody has chosen to be there.
const FIXED: Iova = Iova::new(0x5000_0000);

pub(super) fn pieces_are_at_the_address_that_was_chosen_one_behind_the_other(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let first = device.allocate(8192, None, "first")?;
        let second = device.allocate(4096, None, "second")?;
        let piece =
            |buffer, offset| MapRequest { buffer, offset, bytes: 4096, access: Access::ReadWrite };
        rig.transfer(Direction::FromDevice, FIXED.get(), 16)?;
        rig.expect_fault(FIXED.get(), Tried::Write)?;
        let mapped = device.map_at(FIXED, &[piece(&first, 4096), piece(&second, 0)])?;
        // Half of it is the end of one buffer, and half the start of the other.
        first.write(8192 - 8, &MARK[..8])?;
        second.write(0, &MARK[8..])?;
        let border = FIXED.get() + 4096 - 8;
        rig.transfer(Direction::ToDevice, border, 16)?;
        second.write(0, &[0; 16])?;
        rig.transfer(Direction::FromDevice, FIXED.get() + 4096, 16)?;
        expect(&second, &MARK, "what went out over the border between two buffers")?;
        rig.expect_no_fault()?;
        let found = device.lookup(Iova::new(border))?.ok_or(Error::NotMapped)?;
        require!((found.buffer, found.offset) == (first.id(), 8192 - 8), "it is {found:?}");
        device.unmap(&mapped)?;
        second.write(0, &OTHER)?;
        rig.transfer(Direction::FromDevice, FIXED.get() + 4096, 16)?;
        rig.expect_fault(FIXED.get() + 4096, Tried::Write)?;
        expect(&second, &OTHER, "a buffer that is mapped no more")
    })
}

pub(super) fn r1_a_device_reaches_a_domain_while_it_is_in_it_and_nothing_else(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let own = device.allocate(4096, Some(Access::ReadWrite), "own")?;
        let own_place = own.iova().unwrap_or_default();
        let shared = device.allocate(4096, None, "shared")?;
        let domain = device.new_domain("fixed").aperture(FIXED, 1 << 20).create()?;
        let piece =
            MapRequest { buffer: &shared, offset: 0, bytes: 4096, access: Access::ReadWrite };
        domain.map_at(FIXED, &[piece])?;
        for _ in 0..2 {
            rig.load(&own, own_place, &MARK)?;
            rig.transfer(Direction::FromDevice, FIXED.get(), 16)?;
            rig.expect_fault(FIXED.get(), Tried::Write)?;

            let inside = domain.attach(&device)?;
            rig.transfer(Direction::FromDevice, FIXED.get(), 16)?;
            rig.expect_no_fault()?;
            expect(&shared, &MARK, "the buffer in the domain")?;
            own.write(0, &OTHER)?;
            rig.transfer(Direction::FromDevice, own_place.get(), 16)?;
            rig.expect_fault(own_place.get(), Tried::Write)?;
            expect(&own, &OTHER, "the device's own buffer")?;

            inside.leave()?;
            shared.write(0, &OTHER)?;
            rig.transfer(Direction::FromDevice, FIXED.get(), 16)?;
            rig.expect_fault(FIXED.get(), Tried::Write)?;
            expect(&shared, &OTHER, "the buffer of a domain that was left")?;
            rig.transfer(Direction::FromDevice, own_place.get(), 16)?;
            rig.expect_no_fault()?;
            expect(&own, &MARK, "the device's own buffer again")?;
        }
        // It ends with the device in it.
        let _inside = domain.attach(&device)?;
        drop(domain);
        rig.transfer(Direction::FromDevice, FIXED.get(), 16)?;
        rig.expect_fault(FIXED.get(), Tried::Write)
    })
}

pub(super) fn a_domain_maps_in_its_aperture_and_says_what_is_where(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let (first, second) =
            (device.allocate(8192, None, "first")?, device.allocate(4096, None, "second")?);
        let domain = device.new_domain("fixed").aperture(FIXED, 64 << 10).create()?;
        let access = Access::ReadWrite;
        let half = |offset| MapRequest { buffer: &first, offset, bytes: 4096, access };
        let whole = MapRequest { buffer: &second, offset: 0, bytes: 4096, access };
        let beyond = FIXED.checked_add(64 << 10).unwrap_or_default();
        for outside in [Iova::new(FIXED.get() - 4096), beyond] {
            let refused = domain.map_at(outside, &[whole]).err();
            require!(
                refused == Some(Error::OutsideAperture),
                "{outside} is answered by {refused:?}"
            );
        }
        let apart = domain.map(&[whole])?;
        // The second half before the first.
        let together = domain.map_together(&[half(4096), half(0)])?;
        let found = |iova: Iova| domain.lookup(iova)?.ok_or(Error::NotMapped);
        let [apart_at, one, other] =
            [&apart[0], &together[0], &together[1]].map(|it| start(it).get());
        require!(other == one + 4096, "they are at {one:#x} and at {other:#x}");
        for (place, buffer, offset) in
            [(apart_at, &second, 0), (one, &first, 4096), (other, &first, 0)]
        {
            require!((FIXED.get()..beyond.get()).contains(&place), "{place:#x} is outside");
            let at = found(Iova::new(place + 5))?;
            require!((at.buffer, at.offset) == (buffer.id(), offset + 5), "it is {at:?}");
        }
        require!(device.lookup(Iova::new(one))?.is_none(), "it is in the device's own domain");
        let refused = domain.map_at(Iova::new(one), &[whole]).err();
        require!(refused == Some(Error::AlreadyMapped), "over it is answered by {refused:?}");

        let _inside = domain.attach(&device)?;
        // Out of the end of the second half and the start of the first.
        first.write(8192 - 8, &MARK[..8])?;
        first.write(0, &MARK[8..])?;
        rig.transfer(Direction::ToDevice, other - 8, 16)?;
        rig.transfer(Direction::FromDevice, apart_at, 16)?;
        expect(&second, &MARK, "what went from two halves to one buffer")?;
        rig.expect_no_fault()?;
        domain.unmap(&together)?;
        require!(domain.lookup(Iova::new(one))?.is_none(), "it is there after it was unmapped");
        rig.transfer(Direction::ToDevice, one, 16)?;
        rig.expect_fault(one, Tried::Read)
    })
}

/// Where something is mapped.
fn start(mapped: &Mapped) -> Iova {
    mapped.iova()
}

/// On a machine without an IOMMU: the one address there is can be chosen, and nothing is an address space of its own.
pub(in crate::cases) fn there_are_no_domains_and_no_other_addresses(
    context: &mut Context,
) -> Outcome {
    with_service(context, |rig| {
        let device = rig.open()?;
        let buffer = device.allocate(4096, Some(Access::ReadWrite), "where it is")?;
        let refused = device.new_domain("fixed").aperture(FIXED, 1 << 20).create().err();
        require!(refused == Some(Error::NoIommu), "a domain is answered by {refused:?}");
        let piece =
            MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
        let refused = device.map_at(FIXED, &[piece]).err();
        require!(refused == Some(Error::NoIommu), "another address is answered by {refused:?}");
        let iova = buffer.iova().unwrap_or_default();
        let found = device.lookup(iova)?.ok_or(Error::NotMapped)?;
        require!(found.buffer == buffer.id(), "it is {found:?}");
        rig.load(&buffer, iova, &MARK)?;
        buffer.write(0, &OTHER)?;
        rig.transfer(Direction::FromDevice, iova.get(), 16)?;
        expect(&buffer, &MARK, "the buffer")?;
        // The address that it has can be chosen.
        let later = device.allocate(4096, None, "mapped later")?;
        let piece =
            MapRequest { buffer: &later, offset: 0, bytes: 4096, access: Access::ReadWrite };
        let mapped = device.map(&[piece])?;
        let address = start(&mapped[0]);
        device.unmap(&mapped)?;
        require!(device.lookup(address)?.is_none(), "it is there after it was unmapped");
        let mapped = device.map_at(address, &[piece])?;
        require!(start(&mapped[0]) == address, "it is at {}", start(&mapped[0]));
        let found = device.lookup(address)?.ok_or(Error::NotMapped)?;
        require!(found.buffer == later.id(), "it is {found:?}");
        rig.load(&later, address, &OTHER)?;
        later.write(0, &MARK)?;
        rig.transfer(Direction::FromDevice, address.get(), 16)?;
        expect(&later, &OTHER, "the buffer that was mapped later")?;
        device.unmap(&mapped)?;
        Ok(())
    })
}

/// On a machine with two devices that are kept apart.
pub(super) fn two_devices_reach_one_buffer_at_one_address(context: &mut Context) -> Outcome {
    with_service(context, |rig| {
        let second = Edu::find_second(rig.service.lock().platform_mut())?;
        let (first_device, second_device) = (rig.open()?, open(rig, &second)?);
        let shared = first_device.allocate(4096, None, "shared")?;
        let domain = first_device.new_domain("shared").create()?;
        let piece =
            MapRequest { buffer: &shared, offset: 0, bytes: 4096, access: Access::ReadWrite };
        let mapped = domain.map_at(FIXED, &[piece])?;
        let one = domain.attach(&first_device)?;
        let two = second_device.enter(&domain.ticket()?)?;
        // One carries it out and the other brings it back, by the same address.
        pass_on(rig, &second, &shared, &MARK)?;
        rig.expect_no_fault()?;
        two.leave()?;
        second_transfer(rig, &second, Direction::FromDevice, FIXED.get())?;
        rig.expect_fault_of(&second, FIXED.get(), Tried::Write)?;
        rig.transfer(Direction::FromDevice, FIXED.get(), 16)?;
        rig.expect_no_fault()?;
        let two = domain.attach(&second_device)?;
        pass_on(rig, &second, &shared, &OTHER)?;
        domain.unmap(&mapped)?;
        for (edu, tried) in [(&rig.edu, Tried::Write), (&second, Tried::Write)] {
            second_transfer(rig, edu, Direction::FromDevice, FIXED.get())?;
            rig.expect_fault_of(edu, FIXED.get(), tried)?;
        }
        drop((one, two));
        Ok(())
    })
}

/// The second device reads the buffer and writes it back, and the first one does, too.
fn pass_on(rig: &Rig, second: &Edu, shared: &libdma::Buffer, bytes: &[u8; 16]) -> Outcome {
    for edu in [second, &rig.edu] {
        shared.write(0, bytes)?;
        second_transfer(rig, edu, Direction::ToDevice, FIXED.get())?;
        shared.write(0, &[0; 16])?;
        second_transfer(rig, edu, Direction::FromDevice, FIXED.get())?;
        expect(shared, bytes, "the buffer that both devices reach")?;
    }
    Ok(())
}
