//! Tickets: what one handle offers and a request on another names (R3).

use std::collections::BTreeSet;

use iommu_engine::policy::{Policy, Quotas};
use libdma::protocol::call::{BufferInfo, Hello, Opcode, Welcome, access_code};
use libdma::protocol::derive::{Allocate, Attach, Kind};
use libdma::protocol::ticket::{MAX_TICKETS, Offer};
use libdma::protocol::{Rights, Ticket};
use libdma::{Access, Buffer, Device, Error, Handle};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::rig::Rig;
use crate::vendor::Vendor;

both! {
    r3_a_ticket_offers_no_more_than_its_handle_has,
    r3_what_is_attached_has_no_more_than_was_offered,
    r3_a_ticket_is_good_once,
    r3_no_two_tickets_are_alike_and_a_guess_is_none,
    r4_a_ticket_ends_with_its_handle_and_with_its_session,
    r7_tickets_beyond_the_most_are_refused_until_some_are_gone,
    r7_a_request_that_is_refused_leaves_its_ticket_good,
    r5_offers_that_make_no_sense_are_refused,
}

const ALL: Option<Access> = Some(Access::ReadWrite);

/// The second device of [`Vendor::two_units`].
pub(crate) fn open_other(rig: &Rig) -> Device {
    let other = "0000:01:00.0".parse().unwrap();
    let device = Device::open(rig.transport(), other).unwrap();
    rig.service.lock().platform_mut().machine_mut().config_write(other, 4, 6);
    device
}

pub(crate) fn offer(
    handle: &Handle,
    rights: Rights,
    access: Option<Access>,
) -> Result<[u8; 16], Error> {
    let access = U32::new(access.map_or(0, access_code));
    let mut request = Offer { rights: U32::new(rights.bits()), access, ..Offer::default() };
    let length = handle.call_bytes(Opcode::Offer, request.as_mut_bytes())?;
    assert_eq!(length, size_of::<Ticket>());
    Ok(Ticket::read_from_prefix(request.as_bytes()).unwrap().0.0)
}

pub(crate) fn attaching(ticket: [u8; 16], rights: Rights, access: Option<Access>) -> Attach {
    Attach {
        kind: U32::new(Kind::Attach as u32),
        access: U32::new(access.map_or(0, access_code)),
        rights: U32::new(rights.bits()),
        reserved: U32::ZERO,
        align: U64::new(4096),
        limit: U64::new(u64::MAX),
        ticket,
        label: Allocate::label("attached"),
    }
}

pub(crate) fn attach(
    device: &Device,
    ticket: [u8; 16],
    rights: Rights,
    access: Option<Access>,
) -> Result<Handle, Error> {
    device.handle().derive(&attaching(ticket, rights, access)).map(greeted)
}

/// The handle, after its first call.
pub(crate) fn greeted(handle: Handle) -> Handle {
    let _: Welcome = handle.call(Opcode::Hello, &Hello::new()).unwrap();
    handle
}

pub(crate) fn info(handle: &Handle) -> BufferInfo {
    handle.call(Opcode::BufferInfo, &[0u8; 0]).unwrap()
}

/// A handle to the same with these rights.
pub(crate) fn weaker(handle: &Handle, rights: Rights) -> Handle {
    let kind = U32::new(Kind::Copy as u32);
    let copy = libdma::protocol::derive::Copy { kind, rights: U32::new(rights.bits()) };
    greeted(handle.derive(&copy).unwrap())
}

fn buffer(device: &Device) -> Buffer {
    device.allocate(8192, ALL, "offered").unwrap()
}

fn rig(vendor: Vendor) -> (Rig, Device, Device) {
    let rig = Rig::on(vendor.two_units());
    let (one, other) = (rig.open(), open_other(&rig));
    (rig, one, other)
}

fn r3_a_ticket_offers_no_more_than_its_handle_has(vendor: Vendor) {
    let (rig, one, _) = rig(vendor);
    let buffer = buffer(&one);
    assert!(offer(buffer.handle(), Rights::BUFFER, ALL).is_ok());
    let more_than_a_buffers = offer(buffer.handle(), Rights::DEVICE, ALL);
    assert_eq!(more_than_a_buffers, Err(Error::NotPermitted));
    let unshared = weaker(buffer.handle(), Rights::BUFFER - Rights::SHARE);
    assert_eq!(offer(&unshared, Rights::READ, Some(Access::Read)), Err(Error::NotPermitted));
    let reader = weaker(buffer.handle(), Rights::READ | Rights::SHARE);
    assert!(offer(&reader, Rights::READ, Some(Access::Read)).is_ok());
    for (rights, access) in [
        (Rights::WRITE, None),
        (Rights::INSPECT, None),
        (Rights::empty(), Some(Access::Write)),
        (Rights::READ, ALL),
    ] {
        assert_eq!(offer(&reader, rights, access), Err(Error::NotPermitted));
    }
    let writer = weaker(buffer.handle(), Rights::WRITE | Rights::SHARE);
    assert!(offer(&writer, Rights::empty(), Some(Access::Write)).is_ok());
    assert_eq!(offer(&writer, Rights::empty(), Some(Access::Read)), Err(Error::NotPermitted));
    rig.check();
}

fn r3_what_is_attached_has_no_more_than_was_offered(vendor: Vendor) {
    let (rig, one, other) = rig(vendor);
    let buffer = buffer(&one);
    let rights = Rights::READ | Rights::INSPECT;
    let ticket = offer(buffer.handle(), rights, Some(Access::Read)).unwrap();
    for (rights, access) in [
        (Rights::WRITE, None),
        (Rights::SHARE, None),
        (Rights::DEVICE, None),
        (Rights::empty(), ALL),
        (Rights::READ, Some(Access::Write)),
    ] {
        assert_eq!(attach(&other, ticket, rights, access).err(), Some(Error::NotPermitted));
    }
    // Nor more than the device handle has.
    let blind = weaker(other.handle(), Rights::ALLOCATE | Rights::INSPECT);
    let blind = Device::from_handle(blind).unwrap();
    assert_eq!(attach(&blind, ticket, rights, None).err(), Some(Error::NotPermitted));
    let idle = weaker(other.handle(), Rights::BUFFER);
    let idle = Device::from_handle(idle).unwrap();
    let refused = attach(&idle, ticket, Rights::empty(), None);
    assert_eq!(refused.err(), Some(Error::NotPermitted), "without the right to allocate");

    let attached = attach(&other, ticket, rights, Some(Access::Read)).unwrap();
    let known = info(&attached);
    assert_eq!((known.bytes.get(), known.rights.get()), (8192, rights.bits()));
    assert_eq!(offer(&attached, Rights::empty(), None), Err(Error::NotPermitted), "SHARE");
    rig.check();
}

fn r3_a_ticket_is_good_once(vendor: Vendor) {
    let (rig, one, other) = rig(vendor);
    let buffer = buffer(&one);
    let ticket = offer(buffer.handle(), Rights::BUFFER, ALL).unwrap();
    let attached = attach(&other, ticket, Rights::BUFFER, ALL).unwrap();
    for device in [&one, &other] {
        let again = attach(device, ticket, Rights::BUFFER, ALL);
        assert_eq!(again.err(), Some(Error::BadTicket));
    }
    drop(attached);
    assert_eq!(attach(&other, ticket, Rights::BUFFER, ALL).err(), Some(Error::BadTicket));
    rig.check();
}

fn r3_no_two_tickets_are_alike_and_a_guess_is_none(vendor: Vendor) {
    let (rig, one, other) = rig(vendor);
    let buffer = buffer(&one);
    let tickets: BTreeSet<_> =
        (0..MAX_TICKETS).map(|_| offer(buffer.handle(), Rights::BUFFER, ALL).unwrap()).collect();
    assert_eq!(tickets.len(), MAX_TICKETS);
    let known = *tickets.first().unwrap();
    let near = (0..16).map(|byte| {
        let mut near = known;
        near[byte] ^= 1;
        near
    });
    for guess in near.chain([[0; 16], [0xff; 16]]) {
        assert_eq!(attach(&other, guess, Rights::empty(), None).err(), Some(Error::BadTicket));
    }
    rig.check();
}

fn r4_a_ticket_ends_with_its_handle_and_with_its_session(vendor: Vendor) {
    let (rig, one, other) = rig(vendor);
    let buffer = buffer(&one);
    let copy = weaker(buffer.handle(), Rights::BUFFER);
    let of_copy = offer(&copy, Rights::BUFFER, ALL).unwrap();
    let of_buffer = offer(buffer.handle(), Rights::BUFFER, ALL).unwrap();
    drop(copy);
    assert_eq!(attach(&other, of_copy, Rights::BUFFER, ALL).err(), Some(Error::BadTicket));
    assert!(attach(&other, of_buffer, Rights::BUFFER, ALL).is_ok());

    // A handle that outlives the session, as one that was passed on does.
    let copy = weaker(buffer.handle(), Rights::BUFFER);
    let ticket = offer(&copy, Rights::BUFFER, ALL).unwrap();
    drop((buffer, one));
    assert_eq!(attach(&other, ticket, Rights::BUFFER, ALL).err(), Some(Error::BadTicket));
    assert_eq!(offer(&copy, Rights::BUFFER, ALL), Err(Error::SessionEnded));
    assert!(rig.service.lock().tickets().is_empty());
    rig.check();
}

fn r7_tickets_beyond_the_most_are_refused_until_some_are_gone(vendor: Vendor) {
    let (rig, one, other) = rig(vendor);
    let (first, second) = (buffer(&one), buffer(&one));
    let offer_of = |handle: &Handle| offer(handle, Rights::BUFFER, ALL);
    let copy = weaker(first.handle(), Rights::BUFFER);
    let tickets: Vec<_> = (0..MAX_TICKETS).map(|_| offer_of(&copy).unwrap()).collect();
    assert_eq!(offer_of(second.handle()), Err(Error::QuotaExceeded), "it counts by session");
    assert!(offer_of(buffer(&other).handle()).is_ok(), "another session has its own");
    attach(&other, tickets[0], Rights::BUFFER, ALL).unwrap();
    assert!(offer_of(second.handle()).is_ok());
    assert_eq!(offer_of(second.handle()), Err(Error::QuotaExceeded));
    drop(copy);
    assert!(offer_of(second.handle()).is_ok());
    rig.check();
}

fn r7_a_request_that_is_refused_leaves_its_ticket_good(vendor: Vendor) {
    let quotas = Quotas { buffers: 2, ..Quotas::default() };
    let rig = Rig::with(vendor.two_units(), Policy { quotas, ..Policy::default() });
    let (one, other) = (rig.open(), open_other(&rig));
    let offered = buffer(&one);
    let ticket = offer(offered.handle(), Rights::BUFFER, ALL).unwrap();
    let mut held = vec![buffer(&other), buffer(&other)];
    let before = rig.usage();
    assert_eq!(attach(&other, ticket, Rights::BUFFER, ALL).err(), Some(Error::QuotaExceeded));
    held.pop();
    let low = Attach { limit: U64::new(4096), ..attaching(ticket, Rights::BUFFER, ALL) };
    assert_eq!(other.handle().derive(&low).err(), Some(Error::NoAddressSpace));
    let odd = Attach { align: U64::new(3), ..attaching(ticket, Rights::BUFFER, ALL) };
    assert_eq!(other.handle().derive(&odd).err(), Some(Error::BadAlignment));
    held.push(buffer(&other));
    assert_eq!(rig.usage(), before);
    held.pop();
    assert!(attach(&other, ticket, Rights::BUFFER, ALL).is_ok());
    rig.check();
}

fn r5_offers_that_make_no_sense_are_refused(vendor: Vendor) {
    let (rig, one, other) = rig(vendor);
    let buffer = buffer(&one);
    let good = Offer { rights: U32::new(4), access: U32::new(1), ..Offer::default() };
    for bad in [
        Offer { rights: U32::new(1 << 31), ..good },
        Offer { access: U32::new(4), ..good },
        Offer { reserved: U32::new(1), ..good },
        Offer { offset: U64::new(4096), ..good },
        Offer { bytes: U64::new(4096), ..good },
        Offer { bar: U32::new(1), ..good },
    ] {
        let refused = buffer.handle().call_bytes(Opcode::Offer, { bad }.as_mut_bytes());
        assert_eq!(refused, Err(Error::BadValue));
    }
    let short = buffer.handle().call_bytes(Opcode::Offer, &mut { good }.as_mut_bytes()[..31]);
    assert_eq!(short, Err(Error::ShortPayload));
    let ticket = offer(buffer.handle(), Rights::BUFFER, ALL).unwrap();
    let good = attaching(ticket, Rights::BUFFER, ALL);
    for bad in [
        Attach { rights: U32::new(1 << 31), ..good },
        Attach { access: U32::new(4), ..good },
        Attach { reserved: U32::new(1), ..good },
        Attach { label: [0xff; 32], ..good },
    ] {
        assert_eq!(other.handle().derive(&bad).err(), Some(Error::BadValue));
    }
    assert_eq!(buffer.handle().derive(&good).err(), Some(Error::NotPermitted));
    assert!(other.handle().derive(&good).is_ok());
    rig.check();
}
