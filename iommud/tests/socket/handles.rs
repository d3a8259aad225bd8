//! Handles: duplicated, passed on, weakened.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libdma::protocol::Rights;
use libdma::protocol::call::{Hello, Opcode, Welcome};
use libdma::transport::packet::{self, Kind, ReplyHeader};
use libdma::transport::socket::Socket;
use libdma::{Access, Buffer, Device, Error, Handle};
use rustix::fs::{OFlags, fcntl_get_seals, fcntl_getfl, fstat, ftruncate};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{SendFlags, SocketType};
use zerocopy::FromZeros;

use crate::child::Holder;
use crate::raw::{ask, pair, request};
use crate::rig::{Daemon, edu};
use crate::vendor::Vendor;

both! {
    a_duplicate_keeps_the_session_and_the_last_one_ends_it,
    a_passed_handle_works_in_another_process_and_ends_with_it,
    r3_who_was_passed_a_handle_opens_nothing_but_where_sessions_are_resumed,
    a_handle_that_dies_on_its_way_is_closed,
    r3_a_derived_handle_does_what_its_rights_say_and_no_more,
    r3_memory_that_may_only_be_read_comes_in_a_descriptor_that_only_reads,
    r3_only_the_root_opens_paths,
}

/// The socket of a handle.
fn socket(handle: &Handle) -> BorrowedFd<'_> {
    // SAFETY: the handle is open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(handle.raw().number() as i32) }
}

fn duplicate(handle: &Handle) -> OwnedFd {
    fcntl_dupfd_cloexec(socket(handle), 3).unwrap()
}

fn a_duplicate_keeps_the_session_and_the_last_one_ends_it(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let first = Device::open(daemon.connect(), edu()).unwrap();
    let second = Device::from_handle(Socket::handle(duplicate(first.handle()))).unwrap();
    let generation = first.generation();
    drop(first);
    assert_eq!(Device::open(daemon.connect(), edu()).unwrap_err(), Error::DeviceBusy);
    assert_eq!(second.generation(), generation);
    let ring = second.coherent("ring").access(Access::Read).alone().slice::<u64>(8).unwrap();
    assert_eq!(daemon.report("mappings").len(), 1);
    drop((ring, second));
    daemon.is_well();
}

fn a_passed_handle_works_in_another_process_and_ends_with_it(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let (mine, its) = pair(SocketType::SEQPACKET);
    let header = ReplyHeader::new_zeroed();
    packet::send(&mine, &header, &[], &[socket(device.handle())], SendFlags::empty()).unwrap();
    drop(device);
    // On its way it is open, though nobody has it.
    assert_eq!(Device::open(daemon.connect(), edu()).unwrap_err(), Error::DeviceBusy);
    let holder = Holder::receiving(its);
    assert_eq!(daemon.report("mappings")[0]["label"], "of a child");
    assert_eq!(Device::open(daemon.connect(), edu()).unwrap_err(), Error::DeviceBusy);
    drop(holder);
    daemon.is_well();
}

fn r3_who_was_passed_a_handle_opens_nothing_but_where_sessions_are_resumed(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let (mine, its) = pair(SocketType::SEQPACKET);
    let header = ReplyHeader::new_zeroed();
    packet::send(&mine, &header, &[], &[socket(device.handle())], SendFlags::empty()).unwrap();
    drop(device);
    // It says that it holds the device when it has tried in vain.
    drop(Holder::receiving_only(its, &daemon.socket()));
    daemon.is_well();
}

fn a_handle_that_dies_on_its_way_is_closed(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let (mine, its) = pair(SocketType::SEQPACKET);
    let header = ReplyHeader::new_zeroed();
    packet::send(&mine, &header, &[], &[socket(device.handle())], SendFlags::empty()).unwrap();
    drop((device, mine, its));
    daemon.is_well();
}

fn r3_a_derived_handle_does_what_its_rights_say_and_no_more(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let weak = device.derive(Rights::INSPECT | Rights::ALLOCATE).unwrap();
    let _: Welcome = weak.call(Opcode::Hello, &Hello::new()).unwrap();
    let weak = Device::from_handle(weak).unwrap();
    assert_eq!(weak.derive(Rights::MAP).unwrap_err(), Error::NotPermitted);
    let refused = weak.allocate(4096, None, "unseen").map(|buffer: Buffer| buffer.len());
    assert_eq!(refused, Err(Error::NotPermitted), "its holder may not see the memory");
}

fn r3_memory_that_may_only_be_read_comes_in_a_descriptor_that_only_reads(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let buffer = device.allocate(4096, None, "shared").unwrap();
    for (writable, expected) in [(0, OFlags::RDONLY), (1, OFlags::RDWR)] {
        let packet = request(Kind::Map as u32, 4096, &[writable]);
        let memory = ask(socket(buffer.handle()), &packet).unwrap().unwrap().descriptor.unwrap();
        assert_eq!(fcntl_getfl(&memory).unwrap() & OFlags::RWMODE, expected);
        // R5: it can be made neither longer nor shorter.
        assert!(
            ftruncate(memory.as_fd(), 0).is_err() && ftruncate(memory.as_fd(), 1 << 30).is_err()
        );
        assert!(!fcntl_get_seals(&memory).unwrap().is_empty());
        // Nor can it be opened anew for more, through /proc.
        assert_eq!(fstat(&memory).unwrap().st_mode & 0o777, 0o400);
    }
}

fn r3_only_the_root_opens_paths(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let units = crate::raw::open(crate::raw::connection(&daemon), "units").unwrap();
    for handle in [socket(device.handle()), units.as_fd()] {
        for path in ["units", "sim/0000--00--02.0"] {
            assert_eq!(crate::raw::open(handle, path).unwrap_err(), Error::WrongHandleKind);
        }
    }
}
