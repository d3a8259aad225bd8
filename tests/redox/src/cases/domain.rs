//! A domain whose driver chooses the addresses in it.

use agent::failure::{Outcome, require};
use agent::programs::run;
use agent::reports::wait_for_fault;
use agent::traces::Traces;
use libdma::{Access, Device, Error, Iova, MapRequest};

use crate::driving::{Courier, LENGTH, drive, expect};
use crate::machine::Machine;
use crate::second::{ENTERS, HALF, HAS_ENTERED, SHARED_AT};

/// The chosen address: `edu` reaches it with the address bits that it has unless QEMU is told otherwise.
const FIXED: Iova = Iova::new(0x0500_0000);
const APERTURE: u64 = 1 << 20;

const MARK: [u8; LENGTH] = *b"where it was put";
const OTHER: [u8; LENGTH] = *b"what was here...";

/// Another process enters it with its own device, by a ticket, and both devices reach one buffer at one address.
pub(super) fn is_entered_by_another_process() -> Outcome {
    let (one, other) = (Machine::bench()?, Machine::second_bench()?);
    let before = Traces::now()?;
    let mut courier = Courier::new(drive(&one)?)?;
    let device = courier.driver.device().clone();
    let buffer = device.allocate(4096, None, "of two drivers")?;
    let domain = device.new_domain("of two drivers").aperture(SHARED_AT, APERTURE).create()?;
    let piece = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::ReadWrite };
    domain.map_at(SHARED_AT, &[piece])?;
    courier.load(&MARK)?;
    let inside = domain.attach(&device)?;
    courier.put(SHARED_AT)?;
    let ticket = format!("{:032x}", u128::from_be_bytes(domain.ticket()?.0));
    let end = run("iommu-selftest", &[ENTERS, &ticket, &other.device])?.expect(0)?;
    end.line(HAS_ENTERED)?;
    let mut found = [0; LENGTH];
    buffer.read(HALF as usize, &mut found)?;
    expect(found, &MARK, "where the second device writes")?;
    // That one has left, and this one is there still.
    buffer.write(0, &OTHER)?;
    courier.put(SHARED_AT)?;
    buffer.read(0, &mut found)?;
    expect(found, &MARK, "where the first device writes")?;
    let refused = run("iommu-selftest", &[ENTERS, &ticket, &other.device])?;
    require!(refused.code != Some(0), "the ticket is good twice");
    inside.leave()?;
    drop((domain, buffer, device, courier));
    before.wait_for_return()
}

/// Without an IOMMU there are none.
pub(super) fn is_none(device: &Device) -> Outcome {
    let refused = device.new_domain("none").create().map(drop);
    require!(refused == Err(Error::NoIommu), "a domain: {refused:?}");
    Ok(())
}

/// The device reaches what is in the domain while it is in it, and then not any more.
pub(super) fn at_a_chosen_address() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    let mut courier = Courier::new(drive(&bench)?)?;
    let device = courier.driver.device().clone();
    let own = device.allocate(4096, Some(Access::ReadWrite), "own")?;
    let own_place = own.iova().ok_or(Error::NotMapped)?;
    let buffer = device.allocate(8192, None, "chosen")?;
    let piece = |offset| MapRequest { buffer: &buffer, offset, bytes: 4096, access: Access::Write };
    let at = |offset| {
        let mut found = [0; LENGTH];
        buffer.read(offset, &mut found).map(|()| found)
    };

    let domain = device.new_domain("chosen").aperture(FIXED, APERTURE).create()?;
    let outside = domain.map_at(Iova::new(FIXED.get() + APERTURE), &[piece(0)]).map(drop);
    require!(outside == Err(Error::OutsideAperture), "mapping outside its aperture: {outside:?}");
    // The second page comes first.
    domain.map_at(FIXED, &[piece(4096), piece(0)])?;
    let behind = Iova::new(FIXED.get() + 4096);
    let found = domain.lookup(behind)?.ok_or(Error::NotMapped)?;
    require!((found.buffer, found.offset) == (buffer.id(), 0), "there is {found:?}");

    courier.carry(&MARK, own_place)?;
    let inside = domain.attach(&device)?;
    courier.put(FIXED)?;
    courier.put(behind)?;
    expect(at(4096)?, &MARK, "the page that is mapped first")?;
    expect(at(0)?, &MARK, "the page that is mapped behind it")?;
    own.write(0, &OTHER)?;
    courier.put(own_place)?;
    wait_for_fault(bench.tells, &bench.device, "write", own_place.get())?;
    let mut found = [0; LENGTH];
    own.read(0, &mut found)?;
    expect(found, &OTHER, "what the device has in its own domain")?;

    inside.leave()?;
    buffer.write(0, &OTHER)?;
    courier.put(behind)?;
    wait_for_fault(bench.tells, &bench.device, "write", behind.get())?;
    expect(at(0)?, &OTHER, "a page of a domain that was left")?;
    courier.put(own_place)?;
    own.read(0, &mut found)?;
    expect(found, &MARK, "what the device has in its own domain again")?;

    drop((domain, own, buffer, device, courier));
    before.wait_for_return()
}
