//! Who may revoke what.

use libdma::protocol::call::{DeviceInfo, Opcode};
use libdma::protocol::handle::HandleInfo;
use libdma::protocol::{Rights, Secret};
use libdma::{Access, Error};

use super::{PAGE, copy, derived, number, revoke};
use crate::rig::Rig;
use crate::tickets::{offer, open_other, weaker};
use crate::vendor::Vendor;

both! {
    r3_a_handle_revokes_what_was_derived_from_it_and_nothing_else,
    r3_who_administers_a_device_revokes_any_handle_of_its_session_but_those_above_it,
    r3_who_administers_a_device_revokes_what_came_of_a_buffer_that_is_gone,
    r3_what_is_revoked_offers_nothing_and_derives_nothing,
    r3_who_may_be_revoked_is_not_told_what_resumes_the_session,
    r5_requests_that_make_no_sense_are_refused,
}

fn r3_a_handle_revokes_what_was_derived_from_it_and_nothing_else(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (device, other) = (rig.open(), open_other(&rig));
    let rights = Rights::DEVICE - Rights::ADMINISTER;
    let (one, two) = (derived(&device, rights), derived(&device, rights));
    let below = derived(&one, rights);
    let buffer = one.allocate(PAGE, None, "one").unwrap();
    let shared = buffer.share(Rights::READ).unwrap();
    let shared = crate::tickets::greeted(shared);
    // What they are told of themselves.
    let info: HandleInfo = below.handle().call(Opcode::HandleInfo, &[0u8; 0]).unwrap();
    assert_eq!(info.parent.get(), number(one.handle()));
    assert_eq!(info.rights.get(), rights.bits());
    assert_eq!(info.last.get(), u64::MAX);
    for (by, what) in [
        (one.handle(), number(device.handle())),
        (one.handle(), number(one.handle())),
        (one.handle(), number(two.handle())),
        (two.handle(), number(below.handle())),
        (two.handle(), number(buffer.handle())),
        (below.handle(), number(one.handle())),
        (below.handle(), number(buffer.handle())),
        (buffer.handle(), number(one.handle())),
        (other.handle(), number(one.handle())),
        (one.handle(), 987_654),
        (one.handle(), u64::MAX),
    ] {
        assert_eq!(revoke(by, what), Err(Error::NotPermitted));
    }
    assert_eq!(revoke(two.handle(), 0), Ok(0));
    assert_eq!(revoke(buffer.handle(), 0), Ok(1));
    assert_eq!(revoke(one.handle(), number(below.handle())), Ok(1));
    assert_eq!(revoke(device.handle(), number(shared_parent(&buffer))), Ok(1));
    assert_eq!(revoke(device.handle(), 0), Ok(2));
    // It is not the end of the session.
    drop((shared, buffer, below, one, two));
    assert!(device.allocate(PAGE, Some(Access::Read), "still").is_ok());
    drop((device, other));
    rig.check();
}

fn shared_parent(buffer: &libdma::Buffer) -> &libdma::Handle {
    buffer.handle()
}

fn r3_who_administers_a_device_revokes_any_handle_of_its_session_but_those_above_it(
    vendor: Vendor,
) {
    let rig = Rig::on(vendor.two_units());
    let (device, other) = (rig.open(), open_other(&rig));
    let administrator = copy(&device, Rights::ADMINISTER);
    let sibling = derived(&device, Rights::DEVICE);
    let buffer = device.allocate(PAGE, None, "of the parent").unwrap();
    let elsewhere = other.allocate(PAGE, None, "of another device").unwrap();
    for above in [device.handle(), &administrator, elsewhere.handle(), other.handle()] {
        assert_eq!(revoke(&administrator, number(above)), Err(Error::NotPermitted));
    }
    assert_eq!(revoke(&administrator, number(sibling.handle())), Ok(1));
    assert_eq!(revoke(&administrator, number(buffer.handle())), Ok(1));
    // Where what they were derived from is closed, they are equal.
    let equal = copy(&device, Rights::DEVICE);
    drop((sibling, buffer, device));
    assert_eq!(revoke(&administrator, number(&equal)), Ok(1));
    drop((equal, administrator, elsewhere, other));
    assert_eq!((rig.usage().live_runs, rig.service.lock().handles()), (0, 1));
    rig.check();
}

/// The handle of which it came is closed, and the buffer has ended with it.
fn r3_who_administers_a_device_revokes_what_came_of_a_buffer_that_is_gone(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (device, other) = (rig.open(), open_other(&rig));
    let administrator = copy(&device, Rights::ADMINISTER);
    let buffer = device.allocate(PAGE, None, "passed on").unwrap();
    let ticket = offer(buffer.handle(), Rights::BUFFER, Some(Access::Read)).unwrap();
    let access = Some(Access::Read);
    let attached = crate::tickets::attach(&other, ticket, Rights::INSPECT, access).unwrap();
    let iova = crate::tickets::info(&attached).iova.get();
    let passed = number(buffer.handle());
    drop(buffer);
    assert!(rig.reads(other.address(), libdma::Iova::new(iova), 1).is_ok());
    assert_eq!(revoke(other.handle(), passed), Err(Error::NotPermitted));
    assert_eq!(revoke(&administrator, passed), Ok(1));
    assert!(rig.reads(other.address(), libdma::Iova::new(iova), 1).is_err());
    drop((attached, administrator, device, other));
    assert_eq!((rig.usage().live_runs, rig.service.lock().handles()), (0, 1));
    rig.check();
}

fn r3_what_is_revoked_offers_nothing_and_derives_nothing(vendor: Vendor) {
    let rig = Rig::on(vendor.two_units());
    let (device, other) = (rig.open(), open_other(&rig));
    let buffer = device.allocate(PAGE, None, "offered").unwrap();
    let passed = weaker(buffer.handle(), Rights::BUFFER);
    let ticket = offer(&passed, Rights::BUFFER, Some(Access::Read)).unwrap();
    let own = offer(buffer.handle(), Rights::BUFFER, Some(Access::Read)).unwrap();
    assert_eq!(rig.service.lock().tickets().len(), 2);
    assert_eq!(revoke(buffer.handle(), 0), Ok(1));
    assert_eq!(rig.service.lock().tickets().len(), 1);
    assert_eq!(offer(&passed, Rights::empty(), None), Err(Error::Revoked));
    let attach = |ticket| crate::tickets::attach(&other, ticket, Rights::READ, Some(Access::Read));
    assert_eq!(attach(ticket).err(), Some(Error::BadTicket));
    assert!(attach(own).is_ok());
    drop((passed, buffer, other, device));
    rig.check();
}

/// A secret cannot be taken back.
fn r3_who_may_be_revoked_is_not_told_what_resumes_the_session(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let told = |handle: &libdma::Handle| {
        let info: DeviceInfo = handle.call(Opcode::DeviceInfo, &[0u8; 0]).unwrap();
        info.secret != Secret::NONE
    };
    assert!(told(device.handle()));
    let (one, below) = (copy(&device, Rights::DEVICE), derived(&device, Rights::DEVICE));
    let below = copy(&below, Rights::DEVICE);
    assert!(!told(&one) && !told(&below));
    assert_eq!(revoke(device.handle(), number(&below)), Ok(1));
    // Of what it was derived from nothing is left that could take it back.
    drop((below, device));
    assert!(told(&one));
    drop(one);
    rig.check();
}

fn r5_requests_that_make_no_sense_are_refused(vendor: Vendor) {
    let rig = Rig::new(vendor);
    let device = rig.open();
    let handle = device.handle();
    for length in 0..16 {
        let refused = handle.call_bytes(Opcode::Revoke, &mut [0; 16][..length]);
        assert_eq!(refused, Err(Error::ShortPayload));
    }
    let mut reserved = [0; 16];
    reserved[8] = 1;
    assert_eq!(handle.call_bytes(Opcode::Revoke, &mut reserved), Err(Error::BadValue));
    let text = libdma::Handle::open(rig.transport(), "units").unwrap();
    for opcode in [Opcode::Revoke, Opcode::HandleInfo] {
        assert_eq!(text.call_bytes(opcode, &mut [0; 64]), Err(Error::WrongHandleKind));
    }
    let silent = device.derive(Rights::DEVICE).unwrap();
    drop((silent, text, device));
    rig.check();
}
