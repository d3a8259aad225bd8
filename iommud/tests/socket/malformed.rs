//! R5: packets that are no requests, and answers that cannot be given.

use std::io::{Read, pipe};
use std::os::fd::{AsFd, OwnedFd};

use libdma::protocol::VERSION;
use libdma::protocol::call::{Hello, Opcode};
use libdma::transport::packet::{Kind, MAX_PAYLOAD};
use libdma::{Device, Error};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketType, send as send_bytes};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::raw::{answer, ask, connection, open, pair, request, send};
use crate::rig::{Daemon, edu};
use crate::vendor::Vendor;

both! {
    r5_each_malformed_request_has_its_error,
    r5_a_device_handle_says_hello_first,
    r5_packets_that_are_no_requests_disturb_nobody,
    r5_what_is_no_socket_for_an_answer_gets_none,
    r5_descriptors_beyond_the_first_are_closed,
    r5_an_answer_that_has_no_room_is_dropped_and_nobody_waits,
    r4_a_handle_whose_client_is_gone_is_closed,
    a_client_that_shuts_its_end_has_left,
}

const DEVICE: &str = "device/0000--00--02.0";

fn refused(socket: impl AsFd, packet: &[u8]) -> Error {
    ask(socket, packet).expect("an answer").expect_err("a refusal")
}

fn device(daemon: &Daemon) -> OwnedFd {
    let device = open(connection(daemon), DEVICE).unwrap();
    let hello = request(Kind::Call as u32, Opcode::Hello as u64, Hello::new().as_bytes());
    ask(&device, &hello).unwrap().unwrap();
    device
}

fn r5_each_malformed_request_has_its_error(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let (root, device) = (connection(&daemon), device(&daemon));
    let call = |opcode, payload: &[u8]| request(Kind::Call as u32, opcode, payload);
    for kind in [0, 8, 77, u32::MAX] {
        assert_eq!(refused(&root, &request(kind, 0, b"units")), Error::UnknownCall);
    }
    for opcode in [0, 77, 0xff, u64::MAX] {
        assert_eq!(refused(&device, &call(opcode, &[0; 64])), Error::UnknownCall);
    }
    assert_eq!(refused(&device, &call(Opcode::Hello as u64, b"IOM")), Error::ShortPayload);
    assert_eq!(refused(&device, &call(Opcode::Hello as u64, b"JOMM\x01\0\0\0")), Error::BadValue);
    for version in [0, VERSION - 1, VERSION + 1] {
        let hello = Hello { version: U32::new(version), ..Hello::new() };
        let refusal = refused(&device, &call(Opcode::Hello as u64, hello.as_bytes()));
        assert_eq!(refusal, Error::VersionMismatch);
    }
    assert_eq!(refused(&device, &call(Opcode::DeviceInfo as u64, &[])), Error::ShortPayload);
    assert_eq!(refused(&device, &call(Opcode::SimRead as u64, &[0; 24])), Error::WrongHandleKind);
    let derive = Kind::Derive as u32;
    assert_eq!(refused(&device, &request(derive, 0, &[])), Error::ShortPayload);
    assert_eq!(refused(&device, &request(derive, 0, &[9, 0, 0, 0])), Error::UnknownCall);
    assert_eq!(refused(&device, &request(derive, 0, &[2, 0, 0, 0])), Error::ShortPayload);
    assert_eq!(refused(&device, &request(Kind::Read as u32, 0, &[])), Error::WrongHandleKind);
    let mut reserved = request(Kind::Open as u32, 0, b"units");
    reserved[4] = 1;
    assert_eq!(refused(&root, &reserved), Error::BadValue);
    for path in ["", "/", "unit", "device/", "device/x", "sim/x", "../units", "\0"] {
        assert_eq!(open(&root, path).unwrap_err(), Error::NoSuchPath, "{path:?}");
    }
    drop((root, device));
    daemon.is_well();
}

fn r5_a_device_handle_says_hello_first(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = open(connection(&daemon), DEVICE).unwrap();
    let info = request(Kind::Call as u32, Opcode::DeviceInfo as u64, &[0; 48]);
    assert_eq!(refused(&device, &info), Error::NoHandshake);
}

fn r5_packets_that_are_no_requests_disturb_nobody(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let socket = connection(&daemon);
    for (length, error) in [
        (1, Error::ShortPayload),
        (15, Error::ShortPayload),
        (24 + MAX_PAYLOAD + 1, Error::TooLarge),
    ] {
        let packet = vec![1; length];
        send(&socket, &packet, &[]);
        assert_eq!(refused(&socket, &packet), error, "{length} bytes");
    }
    // An empty packet looks like the end of a connection, and its attachment is not believed.
    send(&socket, &[], &[]);
    assert!(ask(&socket, &[]).is_none());
    // The connection is as good as before.
    open(&socket, "units").unwrap();
    drop(socket);
    daemon.is_well();
}

fn r5_what_is_no_socket_for_an_answer_gets_none(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let socket = connection(&daemon);
    let (mine, its) = pair(SocketType::STREAM);
    let (mut reader, writer) = pipe().unwrap();
    let packet = request(Kind::Open as u32, 0, DEVICE.as_bytes());
    send(&socket, &packet, &[]);
    send(&socket, &packet, &[its.as_fd()]);
    send(&socket, &packet, &[writer.as_fd()]);
    drop((its, writer));
    // Neither was opened, nothing was written, and no copy was kept.
    drop(Device::open(daemon.connect(), edu()).unwrap());
    assert!(answer(mine).is_none());
    assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
}

fn r5_descriptors_beyond_the_first_are_closed(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let socket = connection(&daemon);
    let (mine, its) = pair(SocketType::SEQPACKET);
    let (mut reader, writer) = pipe().unwrap();
    let packet = request(Kind::Open as u32, 0, b"units");
    let all = [its.as_fd(), writer.as_fd(), writer.as_fd()];
    send(&socket, &packet, &all);
    assert!(answer(&mine).unwrap().is_ok());
    // More than are ever taken.
    send(&socket, &packet, &[writer.as_fd(); 8]);
    drop(writer);
    assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
    open(&socket, "units").unwrap();
}

fn r5_an_answer_that_has_no_room_is_dropped_and_nobody_waits(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let socket = connection(&daemon);
    let (mine, its) = pair(SocketType::SEQPACKET);
    while send_bytes(&its, &[0; 1024], SendFlags::DONTWAIT) != Err(Errno::AGAIN) {}
    send(&socket, &request(Kind::Open as u32, 0, DEVICE.as_bytes()), &[its.as_fd()]);
    // The device was opened for this client and, since it did not take the handle, closed again.
    drop(daemon.reopen());
    drop((socket, mine, its));
    daemon.is_well();
}

fn r4_a_handle_whose_client_is_gone_is_closed(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    for _ in 0..50 {
        let socket = connection(&daemon);
        let (mine, its) = pair(SocketType::SEQPACKET);
        drop(mine);
        send(&socket, &request(Kind::Open as u32, 0, DEVICE.as_bytes()), &[its.as_fd()]);
    }
    daemon.is_well();
}

fn a_client_that_shuts_its_end_has_left(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = device(&daemon);
    rustix::net::shutdown(&device, rustix::net::Shutdown::Write).unwrap();
    drop(daemon.reopen());
    let wait = Timespec { tv_sec: 5, tv_nsec: 0 };
    let mut descriptors = [PollFd::new(&device, PollFlags::IN)];
    poll(&mut descriptors, Some(&wait)).unwrap();
    assert!(descriptors[0].revents().contains(PollFlags::HUP));
}
