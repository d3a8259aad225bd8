//! Handles within bounds: I/O addresses, what devices may do, and quotas (R3, R6).

use iommu_service::HandleId;
use libdma::protocol::Rights;
use libdma::protocol::call::Opcode;
use libdma::protocol::derive::{Kind, NO_LIMITS, Restrict};
use libdma::protocol::handle::HandleInfo;
use libdma::{Access, Buffer, Device, Error, Handle, Iova};
use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

use crate::chosen::piece;
use crate::revoking::{derived, map};
use crate::rig::Rig;
use crate::tickets::{attach, greeted, offer, open_other};
use crate::vendor::Vendor;

both! {
    r3_all_that_is_mapped_by_a_handle_is_within_its_addresses,
    r3_r6_a_handle_gives_a_device_no_more_access_than_it_has,
    r3_a_handle_within_bounds_knows_what_came_of_it_and_nothing_else,
    r3_events_are_told_to_handles_of_the_whole_device_alone,
    r3_a_handle_within_bounds_offers_no_registers,
    r3_bounds_are_within_those_of_all_ancestors,
    r3_bounds_outlive_the_handle_that_has_them,
    r3_who_may_not_inspect_is_not_told_what_its_handle_is_of,
    r3_each_quota_holds_for_a_handle_and_all_that_comes_of_it,
    r5_bounds_that_make_no_sense_are_refused,
}

const PAGE: u64 = 4096;
const FIRST: Iova = Iova::new(0x2_0000_0000);
const LAST: Iova = Iova::new(0x2_0000_7fff);
const ALL: Option<Access> = Some(Access::ReadWrite);

fn within(device: &Device) -> Device {
    let (handle, _) = device.restricted("within").addresses(FIRST, LAST).hand_out().unwrap();
    Device::from_handle(handle).unwrap()
}

fn is_within(iova: Iova) -> bool {
    (FIRST..=LAST).contains(&iova)
}

fn r3_all_that_is_mapped_by_a_handle_is_within_its_addresses(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (device, other) = (rig.open(), open_other(&rig));
    let part = within(&device);
    let buffer = part.allocate(2 * PAGE, ALL, "allocated").unwrap();
    assert!(is_within(buffer.iova().unwrap()));
    let mapped = part.map(&[piece(&buffer, 0, PAGE)]).unwrap()[0];
    assert!(is_within(mapped.iova()));
    part.unmap(&[mapped]).unwrap();
    // What another device's driver offers.
    let offered = other.allocate(PAGE, None, "offered").unwrap();
    let ticket = offer(offered.handle(), Rights::READ, Some(Access::Read)).unwrap();
    let attached = attach(&part, ticket, Rights::READ, Some(Access::Read));
    let attached = attached.unwrap();
    // Chosen addresses: all of it within, or nothing is mapped.
    let at = |iova: u64, bytes| part.map_at(Iova::new(iova), &[piece(&buffer, 0, bytes)]);
    let chosen = at(LAST.get() + 1 - PAGE, PAGE).unwrap();
    part.unmap(&chosen).unwrap();
    for (iova, bytes) in [
        (FIRST.get() - PAGE, PAGE),
        (FIRST.get() - PAGE, 2 * PAGE),
        (LAST.get() + 1 - PAGE, 2 * PAGE),
        (LAST.get() + 1, PAGE),
        (0x10_0000, PAGE),
    ] {
        assert_eq!(at(iova, bytes).err(), Some(Error::OutsideAperture), "{iova:#x}");
    }
    // Until there is no room.
    let more: Vec<Buffer> = core::iter::from_fn(|| part.allocate(PAGE, ALL, "more").ok()).collect();
    assert!(!more.is_empty() && more.len() < 4);
    assert!(more.iter().all(|it| is_within(it.iova().unwrap())));
    assert_eq!(part.allocate(PAGE, ALL, "no room").err(), Some(Error::NoAddressSpace));
    assert!(device.allocate(PAGE, ALL, "elsewhere").is_ok());
    // A domain that comes of it is a domain within the same bounds.
    let (handle, _) = device
        .restricted("with domains")
        .rights(Rights::DEVICE)
        .addresses(FIRST, LAST)
        .hand_out()
        .unwrap();
    let inner = Device::from_handle(handle).unwrap();
    let own = inner.allocate(PAGE, None, "own").unwrap();
    let domain = inner.new_domain("domain").create().unwrap();
    let refused = domain.map_at(Iova::new(0x10_0000), &[piece(&own, 0, PAGE)]);
    assert_eq!(refused.err(), Some(Error::OutsideAperture));
    domain.map_at(FIRST, &[piece(&own, 0, PAGE)]).unwrap();
    drop((more, attached, offered, buffer, part, domain, own, inner, device, other));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r3_r6_a_handle_gives_a_device_no_more_access_than_it_has(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (device, other) = (rig.open(), open_other(&rig));
    for (may, not) in [(Access::Read, Access::Write), (Access::Write, Access::Read)] {
        let (handle, _) = device.restricted("one way").access(may).hand_out().unwrap();
        let part = Device::from_handle(handle).unwrap();
        for access in [not, Access::ReadWrite] {
            let refused = part.allocate(PAGE, Some(access), "the other way");
            assert_eq!(refused.err(), Some(Error::NotPermitted));
        }
        let buffer = part.allocate(PAGE, Some(may), "one way").unwrap();
        assert_eq!(map(part.handle(), buffer.id()), Err(Error::NotPermitted));
        // Nor by who is offered it, nor by whoever else of the session: it is what the buffer may be.
        let refused = offer(buffer.handle(), Rights::BUFFER, Some(not));
        assert_eq!(refused, Err(Error::NotPermitted));
        assert_eq!(map(device.handle(), buffer.id()), Err(Error::NotPermitted));
        // Nor what it is offered.
        let offered = other.allocate(PAGE, None, "offered").unwrap();
        let ticket = offer(offered.handle(), Rights::READ, ALL).unwrap();
        let refused = attach(&part, ticket, Rights::READ, Some(not));
        assert_eq!(refused.err(), Some(Error::NotPermitted));
        assert!(attach(&part, ticket, Rights::READ, Some(may)).is_ok());
    }
    drop((device, other));
    rig.check();
}

fn r3_a_handle_within_bounds_knows_what_came_of_it_and_nothing_else(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let buffer = device.allocate(PAGE, ALL, "the parent's").unwrap();
    let mapped = device.map(&[piece(&buffer, 0, PAGE)]).unwrap();
    let (part, sibling) = (within(&device), within(&device));
    let theirs = sibling.allocate(PAGE, None, "the sibling's").unwrap();
    for buffer in [&buffer, &theirs] {
        assert_eq!(part.map(&[piece(buffer, 0, PAGE)]).err(), Some(Error::WrongOwner));
    }
    let address = buffer.iova().unwrap();
    assert_eq!(part.unmap(&mapped), Err(Error::NotMapped));
    assert!(part.lookup(address).unwrap().is_none());
    assert!(device.lookup(address).unwrap().is_some());
    // What came of what came of it, it knows; and those above know all.
    let below = within(&part);
    let own = below.allocate(PAGE, None, "below").unwrap();
    let mapped = part.map(&[piece(&own, 0, PAGE)]).unwrap();
    assert_eq!(below.unmap(&mapped), Err(Error::NotMapped), "that its parent has mapped");
    device.unmap(&mapped).unwrap();
    // The secret would prove a claim to all of the session.
    let (handle, _) = device.restricted("all").rights(Rights::DEVICE).hand_out().unwrap();
    let all = greeted(handle);
    let info: libdma::protocol::call::DeviceInfo = all.call(Opcode::DeviceInfo, &[0u8; 0]).unwrap();
    assert_eq!(info.secret, libdma::protocol::Secret::NONE);
    drop((all, own, below, theirs, part, sibling, buffer, device));
    rig.check();
}

fn r3_events_are_told_to_handles_of_the_whole_device_alone(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    // Without a bound said, with all rights, and what came of it.
    let (handle, _) = device.restricted("part").rights(Rights::DEVICE).hand_out().unwrap();
    let part = Device::from_handle(handle).unwrap();
    let parts = [derived(&part, Rights::DEVICE), within(&part), part];
    let watch =
        |device: &Device| rig.service.lock().watch(HandleId(device.handle().raw().number()), true);
    assert_eq!(watch(&device), Ok(false));
    let own = device.allocate(PAGE, Some(Access::Read), "the owner's ring").unwrap();
    let start = own.iova().unwrap().get();
    for at in [0, 2 * PAGE] {
        rig.device_writes(start + at, &[1; 8]).unwrap_err();
    }
    for part in &parts {
        assert_eq!(part.events().err(), Some(Error::NotPermitted));
        assert_eq!(watch(part), Err(Error::NotPermitted));
        assert!(part.allocate(PAGE, ALL, "its work goes on").is_ok());
    }
    rig.service.lock().poll();
    let readable = rig.service.lock().take_readable();
    assert_eq!(readable, [HandleId(device.handle().raw().number())]);
    assert_eq!(device.events().unwrap().faults().count(), 2, "nobody has taken any");
    // A copy of the whole is told what the whole is.
    let copy = derived(&device, Rights::DEVICE);
    rig.device_writes(start, &[1; 8]).unwrap_err();
    assert_eq!(watch(&copy), Ok(true));
    assert_eq!(copy.events().unwrap().faults().count(), 1);
    drop((copy, parts, own, device));
    rig.check();
}

fn r3_a_handle_within_bounds_offers_no_registers(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units().with_peer_routing());
    let (device, other) = (rig.open(), open_other(&rig));
    let (handle, _) = device.restricted("part").rights(Rights::DEVICE).hand_out().unwrap();
    let part = Device::from_handle(handle).unwrap();
    let parts = [derived(&part, Rights::DEVICE), within(&part), part];
    for part in &parts {
        for access in [Access::Read, Access::Write, Access::ReadWrite] {
            let offered = part.offer_bar(0, 0, PAGE, access);
            assert_eq!(offered.err(), Some(Error::NotPermitted));
        }
    }
    // What another device's driver offers it may have, and a copy of the whole offers what the whole does.
    let ticket = other.offer_bar(0, 0, PAGE, Access::Write).unwrap();
    let attached = parts[0].attach(&ticket, Access::Write, "doorbell").unwrap();
    let copy = derived(&device, Rights::DEVICE);
    assert!(copy.offer_bar(0, 0, PAGE, Access::Write).is_ok());
    drop((attached, copy, parts, device, other));
    rig.check();
}

fn request(access: u32, first: u64, last: u64) -> Restrict {
    Restrict {
        kind: U32::new(Kind::Restrict as u32),
        rights: U32::new(Rights::MAP.bits()),
        access: U32::new(access),
        first: U64::new(first),
        last: U64::new(last),
        limits: NO_LIMITS,
        ..Restrict::new_zeroed()
    }
}

fn info(handle: &Handle) -> HandleInfo {
    handle.call(Opcode::HandleInfo, &[0u8; 0]).unwrap()
}

fn r3_bounds_are_within_those_of_all_ancestors(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let read_only = request(1, FIRST.get(), LAST.get());
    let part = device.handle().derive(&read_only).unwrap();
    for wider in [
        request(3, FIRST.get(), LAST.get()),
        request(2, FIRST.get(), LAST.get()),
        request(1, FIRST.get() - PAGE, LAST.get()),
        request(1, FIRST.get(), LAST.get() + PAGE),
        request(1, FIRST.get(), u64::MAX),
        Restrict { rights: U32::new(Rights::ALLOCATE.bits()), ..read_only },
    ] {
        assert_eq!(part.derive(&wider).err(), Some(Error::NotPermitted), "{wider:?}");
    }
    // All addresses are all that there are to be had.
    let below = part.derive(&request(1, 0, u64::MAX)).unwrap();
    let told = info(&below);
    assert_eq!((told.first.get(), told.last.get()), (FIRST.get(), LAST.get()));
    assert_eq!((told.access.get(), told.rights.get()), (1, Rights::MAP.bits()));
    assert_eq!(told.parent.get(), info(&part).handle.get());
    drop((below, part, device));
    rig.check();
}

fn r3_bounds_outlive_the_handle_that_has_them(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let (handle, taken) = device
        .restricted("closed")
        .addresses(FIRST, LAST)
        .buffer_bytes(2 * PAGE)
        .hand_out()
        .unwrap();
    let part = Device::from_handle(handle).unwrap();
    let rights = Rights::DEVICE - Rights::ADMINISTER - Rights::ATTACH;
    let copy = derived(&part, rights);
    drop(part);
    let more = copy.allocate(PAGE, ALL, "more").unwrap();
    assert!(is_within(more.iova().unwrap()));
    assert_eq!(copy.allocate(2 * PAGE, None, "too much").err(), Some(Error::QuotaExceeded));
    // Nor does what was derived from it outlive the right to take it back.
    assert_eq!(info(copy.handle()).parent.get(), info(device.handle()).handle.get());
    assert_eq!(taken.revoke(), Ok(2));
    assert!(rig.device_reads(more.iova().unwrap().get(), 8).is_err());
    drop((more, copy, taken, device));
    assert_eq!(rig.usage().live_runs, 0);
    assert_eq!(rig.service.lock().accounts().iter().count(), 0, "no account is left");
    rig.check();
}

fn r3_each_quota_holds_for_a_handle_and_all_that_comes_of_it(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let over = Some(Error::QuotaExceeded);
    let open = |restricted: libdma::Restricted<'_>| {
        Device::from_handle(restricted.hand_out().unwrap().0).unwrap()
    };
    // Memory.
    let part = open(device.restricted("memory").buffer_bytes(3 * PAGE));
    let below = open(part.restricted("below").buffer_bytes(u64::MAX));
    let held = below.allocate(2 * PAGE, None, "held").unwrap();
    assert_eq!(below.allocate(2 * PAGE, None, "too much").err(), over);
    assert_eq!(part.allocate(2 * PAGE, None, "too much").err(), over);
    drop((part.allocate(PAGE, None, "as much").unwrap(), held));
    drop(part.allocate(3 * PAGE, None, "given back").unwrap());
    // Mapped bytes.
    let part = open(device.restricted("mapped").mapped_bytes(2 * PAGE));
    let buffer = part.allocate(2 * PAGE, ALL, "mapped").unwrap();
    assert_eq!(part.map(&[piece(&buffer, 0, PAGE)]).err(), over);
    drop(buffer);
    let buffer = part.allocate(2 * PAGE, None, "not mapped").unwrap();
    let mapped = part.map(&[piece(&buffer, 0, PAGE), piece(&buffer, PAGE, PAGE)]).unwrap();
    assert_eq!(part.map(&[piece(&buffer, 0, PAGE)]).err(), over);
    part.unmap(&mapped[..1]).unwrap();
    part.map(&[piece(&buffer, 0, PAGE)]).unwrap();
    drop(buffer);
    // Mappings.
    let part = open(device.restricted("mappings").mappings(1));
    let buffer = part.allocate(2 * PAGE, ALL, "one").unwrap();
    assert_eq!(part.map(&[piece(&buffer, 0, PAGE)]).err(), over);
    assert_eq!(part.allocate(PAGE, ALL, "two").err(), over);
    drop(buffer);
    // Buffers, and addresses.
    let part = open(device.restricted("buffers").buffers(1));
    let one = part.allocate(PAGE, None, "one").unwrap();
    assert_eq!(part.allocate(PAGE, None, "two").err(), over);
    drop(one);
    let part = open(device.restricted("addresses").iova_bytes(2 * PAGE));
    let buffer = part.allocate(2 * PAGE, ALL, "addresses").unwrap();
    assert_eq!(part.map(&[piece(&buffer, 0, PAGE)]).err(), over);
    drop(buffer);
    // Tables: what lies far apart takes a table for each.
    let part = open(device.restricted("tables").table_bytes(4 * PAGE));
    let buffer = part.allocate(PAGE, None, "far apart").unwrap();
    let at = |number: u64| {
        let iova = Iova::new(0x10_0000_0000 + (number << 30));
        part.map_at(iova, &[piece(&buffer, 0, PAGE)])
    };
    let mapped: Vec<_> = (0..8).map(at).collect();
    assert!(mapped[0].is_ok() && mapped[7].as_ref().err() == over.as_ref(), "{mapped:?}");
    drop((buffer, part, below, device));
    assert_eq!(rig.usage().live_runs, 0);
    rig.check();
}

fn r5_bounds_that_make_no_sense_are_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let good = request(3, FIRST.get(), LAST.get());
    for (bad, error) in [
        (request(0, FIRST.get(), LAST.get()), Error::BadValue),
        (request(8, FIRST.get(), LAST.get()), Error::BadValue),
        (request(3, FIRST.get() + 1, LAST.get()), Error::BadAlignment),
        (request(3, FIRST.get(), LAST.get() - 1), Error::BadAlignment),
        (request(3, LAST.get() + 1, LAST.get()), Error::BadValue),
        (Restrict { rights: U32::new(1 << 31), ..good }, Error::BadValue),
        (Restrict { label: [0xff; 32], ..good }, Error::BadValue),
    ] {
        assert_eq!(device.handle().derive(&bad).err(), Some(error), "{bad:?}");
    }
    let buffer = device.allocate(PAGE, None, "a buffer").unwrap();
    let none = Restrict { rights: U32::ZERO, ..good };
    assert_eq!(buffer.handle().derive(&none).err(), Some(Error::WrongHandleKind));
    drop((buffer, device));
    rig.check();
}

fn r3_who_may_not_inspect_is_not_told_what_its_handle_is_of(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let rights = Rights::DEVICE - Rights::INSPECT;
    let (handle, _) = device.restricted("blind").rights(rights).hand_out().unwrap();
    assert_eq!(Device::from_handle(handle).err(), Some(Error::NotPermitted));
    drop(device);
    rig.check();
}
