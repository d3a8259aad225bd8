//! Requests that are answered later, and handles that become readable.

use std::time::Duration;

use iommu_sim::pace::Completion as Takes;
use iommud::transport::scheme::open::GRACE;
use iommud::transport::scheme::{Reply, Request};
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::Opcode;
use libdma::protocol::event::{EventRecord, EventsHeader};
use zerocopy::IntoBytes;

use crate::rig::*;
use crate::vendor::{Vendor, slow, slow_down};

both! {
    a_request_that_hardware_must_confirm_is_answered_later_and_once,
    r5_an_opening_that_hardware_never_confirms_is_refused_at_the_deadline,
    r4_a_handle_that_its_client_died_for_is_closed,
    r4_a_request_whose_client_was_killed_meanwhile_is_answered_once_and_leaves_nothing,
    a_device_handle_is_readable_when_there_is_a_fault_and_until_it_was_read,
}

fn a_request_that_hardware_must_confirm_is_answered_later_and_once(vendor: Vendor) {
    let mut rig = Rig::new(slow(vendor.caching(), Takes::After(2_000_000)));
    assert_eq!(rig.request(open(rig.root, EDU), ROOT), None);
    assert!(rig.desk.is_waiting());
    // Nobody else waits for it, and nobody else gets the device.
    assert!(rig.request(open(rig.root, "units"), USER).unwrap().is_ok());
    assert_eq!(rig.request(open(rig.root, EDU), ROOT), None);
    let mut answered = Vec::new();
    while answered.is_empty() {
        answered = rig.desk.poll(rig.now);
    }
    let [(Tag(1), Ok(Reply::Handle { number, .. }))] = answered[..] else { panic!("{answered:?}") };
    assert!(rig.desk.poll(rig.now).is_empty());
    assert_eq!(rig.ask(Request::Check(number), ROOT), Ok(Reply::Done));
    while answered.len() < 2 {
        answered.extend(rig.desk.poll(rig.now));
    }
    assert_eq!(answered[1], (Tag(3), Err(Error::DeviceBusy)));
}

fn r5_an_opening_that_hardware_never_confirms_is_refused_at_the_deadline(vendor: Vendor) {
    let mut rig = Rig::new(vendor.caching());
    slow_down(&mut rig.desk.service().platform().machine_mut(), Takes::Never);
    let handles = rig.desk.service().handles();
    assert_eq!(rig.open(EDU, ROOT), Err(Error::TimedOut));
    assert_eq!(rig.desk.service().handles(), handles);
}

fn r4_a_handle_that_its_client_died_for_is_closed(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    rig.open(EDU, ROOT).unwrap();
    let ended = |process| Some(process) == ROOT.process;
    // Its process may have passed it to one that has not come to use it yet.
    rig.desk.close_lost(rig.now + GRACE - Duration::from_millis(1), ended);
    assert_eq!(rig.open(EDU, ROOT), Err(Error::DeviceBusy));
    // As long as its process lives, it may keep it for later.
    rig.desk.close_lost(rig.now + 10 * GRACE, |_| false);
    assert_eq!(rig.open(EDU, ROOT), Err(Error::DeviceBusy));
    rig.desk.close_lost(rig.now + GRACE, ended);
    let device = rig.open(EDU, ROOT).unwrap();

    // Once used, it is somebody's.
    rig.ask(Request::Check(device), ROOT).unwrap();
    rig.desk.close_lost(rig.now + 10 * GRACE, ended);
    assert_eq!(rig.open(EDU, ROOT), Err(Error::DeviceBusy));
    // So is the scheme's root, which nobody has used if all opened other folders.
    assert!(rig.open("", ROOT).is_ok());
}

fn r4_a_request_whose_client_was_killed_meanwhile_is_answered_once_and_leaves_nothing(
    vendor: Vendor,
) {
    let mut rig = Rig::new(vendor.caching());
    let handles = rig.desk.service().handles();
    let device = rig.device();
    slow_down(&mut rig.desk.service().platform().machine_mut(), Takes::After(2_000_000));
    let derive = |rig: &mut Rig| {
        let bytes = allocation(0x1000).as_bytes().to_vec();
        rig.request(Request::Derive { handle: device, bytes }, ROOT)
    };
    // One waits that was asked first, one that was asked later; the kernel wants an answer to both.
    assert_eq!((derive(&mut rig), derive(&mut rig)), (None, None));
    let last = rig.last_tag;
    // The client is killed: what the kernel says is that its descriptors are gone.
    rig.desk.close(device);
    let mut answered = Vec::new();
    while rig.desk.is_waiting() {
        answered.extend(rig.desk.poll(rig.now).into_iter().map(|(Tag(tag), _)| tag));
    }
    answered.sort_unstable();
    assert_eq!(answered, [last - 1, last]);
    // Of the handles in the answers nobody hears any more.
    rig.desk.close_lost(rig.now + GRACE, |_| true);
    assert_eq!(rig.desk.service().handles(), handles);
    for _ in 0..1000 {
        assert!(rig.desk.poll(rig.now).is_empty());
    }
    assert_eq!(rig.desk.service().platform().usage().live_runs, 0);
}

fn a_device_handle_is_readable_when_there_is_a_fault_and_until_it_was_read(vendor: Vendor) {
    let mut rig = Rig::new(vendor.machine());
    let device = rig.device();
    let watch = |rig: &mut Rig, handle, wanted| rig.ask(Request::Watch { handle, wanted }, ROOT);
    assert_eq!(watch(&mut rig, device, true), Ok(Reply::Readable(false)));
    offend(&mut rig);
    assert_eq!(rig.desk.take_readable(), [device]);
    assert_eq!(watch(&mut rig, device, true), Ok(Reply::Readable(true)));
    let mut room = [0; size_of::<EventsHeader>() + size_of::<EventRecord>()];
    room[0] = 1;
    assert_eq!(rig.call(device, Opcode::Events, &room).map(|read| read.len()), Ok(room.len()));
    assert_eq!(rig.call(device, Opcode::Events, &room).map(|read| read.len()), Ok(16));
    assert_eq!(watch(&mut rig, device, true), Ok(Reply::Readable(false)));

    // Whoever wants to know of nothing is told nothing, and neither is one who has gone.
    assert_eq!(watch(&mut rig, device, false), Ok(Reply::Readable(false)));
    offend(&mut rig);
    assert!(rig.desk.take_readable().is_empty());
    assert_eq!(watch(&mut rig, device, true), Ok(Reply::Readable(true)));
    assert_eq!(rig.call(device, Opcode::Events, &room).map(|read| read.len()), Ok(room.len()));
    let copy = rig.derive(device, &copy(Rights::INSPECT)).unwrap();
    assert_eq!(watch(&mut rig, copy, true), Ok(Reply::Readable(false)));
    rig.desk.close(device);
    offend(&mut rig);
    assert_eq!(rig.desk.take_readable(), [copy]);

    let text = rig.open("units", ROOT).unwrap();
    assert_eq!(watch(&mut rig, text, true), Err(Error::WrongHandleKind));
}

/// Lets the device write where it may not.
fn offend(rig: &mut Rig) {
    let edu = "0000:00:02.0".parse().unwrap();
    {
        let mut machine = rig.desk.service().platform().machine_mut();
        machine.config_write(edu, 4, 6);
        machine.dma_write(edu, 0x5000, &[1; 8]).unwrap_err();
    }
    rig.desk.poll(rig.now);
}
