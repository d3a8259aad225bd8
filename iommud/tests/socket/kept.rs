//! Sockets that are kept for the answers to a handle's requests.

use std::os::fd::{AsFd, OwnedFd};
use std::{fs, thread};

use libdma::protocol::call::{Hello, Opcode};
use libdma::transport::packet::{Kind, Packet, ReplyHeader};
use libdma::{Access, Device, Error, MapRequest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::process::Signal;
use zerocopy::IntoBytes;

use crate::raw::{answer, connection, open, pair, request, request_kept, send};
use crate::rig::{Daemon, edu, eventually};
use crate::vendor::Vendor;

both! {
    answers_come_on_the_socket_that_is_kept,
    r3_nobody_is_answered_elsewhere_by_a_number_of_another_handle,
    r5_no_more_are_kept_than_may_be_and_those_that_are_left_make_room,
    r4_whoever_waits_at_one_is_told_when_the_daemon_dies,
    r4_no_handle_is_held_by_what_is_kept_for_it,
    r4_whoever_does_not_read_is_not_left_waiting,
    whoever_maps_again_and_again_is_answered_on_one_socket,
    threads_that_map_by_one_handle_have_each_their_own_answer,
}

/// How many the daemon keeps for a handle.
const MOST: usize = 8;

const PAGE: u64 = 4096;

/// Has the daemon keep a socket: this end, and its number.
fn keep(handle: impl AsFd) -> Result<(OwnedFd, u64), Error> {
    let (mine, its) = pair(SocketType::SEQPACKET);
    send(handle, &request(Kind::Keep as u32, 0, &[]), &[its.as_fd()]);
    drop(its);
    let Packet { payload, descriptor, .. } = answer(&mine).unwrap()?;
    Ok((descriptor.unwrap(), u64::from_le_bytes(payload.try_into().unwrap())))
}

/// Asks for what is not there, to be told so on the socket that is kept by this number.
fn ask_by(number: u64, handle: impl AsFd) {
    send(handle, &request_kept(number, Kind::Open as u32, 0, b"nothing"), &[]);
}

fn is_told_so(answer: Option<Result<Packet<ReplyHeader>, Error>>) -> bool {
    matches!(answer, Some(Err(Error::NoSuchPath)))
}

/// Whether nothing has come, and nothing was closed.
fn is_silent(socket: &OwnedFd) -> bool {
    let soon = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&soon)) == Ok(0)
}

fn descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

/// The same when the daemon waits: who has been answered may be so before the socket of that answer is closed.
fn descriptors_at_rest(daemon: &Daemon) -> usize {
    eventually(|| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        let (_, state) = stat.rsplit_once(") ")?;
        state.starts_with('S').then(|| descriptors(daemon))
    })
}

fn answers_come_on_the_socket_that_is_kept(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let root = connection(&daemon);
    let (one, first) = keep(&root).unwrap();
    let (other, second) = keep(&root).unwrap();
    let all = descriptors_at_rest(&daemon);
    for (mine, number) in [(&one, first), (&other, second), (&one, first)] {
        ask_by(number, &root);
        assert!(is_told_so(answer(mine)));
    }
    assert!(is_silent(&one) && is_silent(&other));
    // What comes with a descriptor comes with it here, too.
    send(&root, &request_kept(first, Kind::Open as u32, 0, b"units"), &[]);
    let units = answer(&one).unwrap().unwrap().descriptor.unwrap();
    ask_by(first, &units);
    assert!(is_silent(&one), "it is the root's, and of no other handle");
    drop((root, units));
    assert!(answer(&one).is_none() && answer(&other).is_none(), "they are closed with the handle");
    eventually(|| (descriptors(&daemon) == all - 3).then_some(()));
    daemon.is_well();
}

fn r3_nobody_is_answered_elsewhere_by_a_number_of_another_handle(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let (root, stranger) = (connection(&daemon), connection(&daemon));
    let (mine, number) = keep(&root).unwrap();
    ask_by(number, &stranger);
    for guessed in [1, number - 1, number + 1, u64::MAX] {
        ask_by(guessed, &root);
    }
    assert!(is_silent(&mine));
    // Nor is what comes with one that is not known answered on what it brings.
    let (own, its) = pair(SocketType::SEQPACKET);
    send(&root, &request_kept(number ^ 1, Kind::Open as u32, 0, b"nothing"), &[its.as_fd()]);
    drop(its);
    assert!(answer(&own).is_none());
    ask_by(number, &root);
    assert!(is_told_so(answer(&mine)));
}

fn r5_no_more_are_kept_than_may_be_and_those_that_are_left_make_room(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let root = connection(&daemon);
    let mut kept: Vec<_> = (0..MOST).map(|_| keep(&root).unwrap()).collect();
    let all = descriptors_at_rest(&daemon);
    assert_eq!(keep(&root).err(), Some(Error::QuotaExceeded));
    eventually(|| (descriptors(&daemon) == all).then_some(()));
    let (gone, number) = kept.remove(3);
    drop(gone);
    // A program that another test starts may have its end for a moment still.
    let (new, its) = eventually(|| keep(&root).ok());
    assert_ne!(its, number);
    assert_eq!(keep(&root).err(), Some(Error::QuotaExceeded));
    kept.push((new, its));
    for (mine, number) in &kept {
        ask_by(*number, &root);
        assert!(is_told_so(answer(mine)));
    }
    drop(root);
    eventually(|| (descriptors(&daemon) < all - MOST).then_some(()));
    daemon.is_well();
}

fn r4_whoever_waits_at_one_is_told_when_the_daemon_dies(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let root = connection(&daemon);
    let device = open(&root, &format!("device/{}", edu().to_string().replace(':', "--"))).unwrap();
    let hello = request(Kind::Call as u32, Opcode::Hello as u64, Hello::new().as_bytes());
    let (mine, _) = keep(&device).unwrap();
    assert!(crate::raw::ask(&device, &hello).is_some());
    daemon.signal(Signal::KILL);
    assert!(answer(&mine).is_none());
}

fn r4_no_handle_is_held_by_what_is_kept_for_it(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let (one, other) = (connection(&daemon), connection(&daemon));
    let before = descriptors_at_rest(&daemon);
    let root = connection(&daemon);
    // What comes for the answer is a handle: another's, or its own.
    for (at, place) in [(&root, &other), (&one, &root), (&root, &root)] {
        send(at, &request(Kind::Keep as u32, 0, &[]), &[place.as_fd()]);
    }
    // And a handle is sent to where answers come from.
    let (kept, _) = keep(&root).unwrap();
    let sent = crate::raw::try_send(&kept, &[0; 24], &[root.as_fd()]);
    assert_eq!(sent.err(), Some(Errno::PIPE));
    drop((kept, root));
    // What was made for the others is theirs, and they have not read it.
    drop((one, other));
    eventually(|| (descriptors(&daemon) == before - 2).then_some(()));
    daemon.is_well();
}

fn r4_whoever_does_not_read_is_not_left_waiting(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let root = connection(&daemon);
    let (mine, number) = keep(&root).unwrap();
    let (witness, its) = keep(&root).unwrap();
    // As many answers as there is no room for.
    for _ in 0..2000 {
        ask_by(number, &root);
    }
    ask_by(its, &root);
    assert!(is_told_so(answer(&witness)));
    while is_told_so(answer(&mine)) {}
    assert!(answer(&mine).is_none(), "one answer is missing, so that none comes any more");
    drop(root);
    daemon.is_well();
}

/// Maps and unmaps so often, each time another number of pages.
fn map_and_unmap(device: &Device, pages: u64, rounds: u64) {
    let buffer = device.allocate(pages * PAGE, None, "buffer").unwrap();
    for round in 0..rounds {
        let (bytes, access) = ((1 + round % pages) * PAGE, Access::ReadWrite);
        let request = MapRequest { buffer: &buffer, offset: 0, bytes, access };
        let mapped = device.map(&[request]).unwrap();
        let found = device.lookup(mapped[0].iova()).unwrap().unwrap();
        assert_eq!((found.buffer, found.mapping.bytes()), (buffer.id(), bytes));
        device.unmap(&mapped).unwrap();
    }
    let too_long =
        MapRequest { buffer: &buffer, offset: PAGE, bytes: pages * PAGE, access: Access::Read };
    assert_eq!(device.map(&[too_long]).err(), Some(Error::OutOfBuffer));
}

fn whoever_maps_again_and_again_is_answered_on_one_socket(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let before = descriptors_at_rest(&daemon);
    map_and_unmap(&device, 3, 50);
    // The buffer is gone. One socket is kept, and no more.
    eventually(|| (descriptors(&daemon) == before + 1).then_some(()));
    drop(device);
    eventually(|| (descriptors(&daemon) < before).then_some(()));
}

fn threads_that_map_by_one_handle_have_each_their_own_answer(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    thread::scope(|scope| {
        for pages in 1..=6 {
            let device = &device;
            scope.spawn(move || map_and_unmap(device, pages, 60));
        }
    });
    drop(device);
    daemon.is_well();
}
