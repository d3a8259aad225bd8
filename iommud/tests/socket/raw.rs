//! A client that makes its own packets.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libdma::Error;
use libdma::transport::packet::{self, Kind, Packet, ReceiveError, ReplyHeader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with, socketpair,
};

use crate::rig::Daemon;

/// How long to wait for an answer, or for the daemon to hang up.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

pub(crate) fn connection(daemon: &Daemon) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(daemon.socket()).unwrap()).unwrap();
    socket
}

pub(crate) fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

/// A request's bytes: kind, zero, argument, zero for an answer on the socket that is attached, payload.
pub(crate) fn request(kind: u32, argument: u64, payload: &[u8]) -> Vec<u8> {
    request_kept(0, kind, argument, payload)
}

/// The same of a request that is to be answered on the kept socket of this number.
pub(crate) fn request_kept(kept: u64, kind: u32, argument: u64, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::from(u64::from(kind).to_le_bytes());
    packet.extend(argument.to_le_bytes());
    packet.extend(kept.to_le_bytes());
    packet.extend(payload);
    packet
}

/// Sends a packet with descriptors.
pub(crate) fn send(socket: impl AsFd, packet: &[u8], descriptors: &[BorrowedFd<'_>]) {
    try_send(socket, packet, descriptors).unwrap();
}

/// The same, where it may be that nobody takes it any more.
pub(crate) fn try_send(
    socket: impl AsFd,
    packet: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Sends a packet with a socket for the answer, and waits for that: `None` if the socket was closed instead.
pub(crate) fn ask(socket: impl AsFd, packet: &[u8]) -> Option<Result<Packet<ReplyHeader>, Error>> {
    let (mine, its) = pair(SocketType::SEQPACKET);
    send(socket, packet, &[its.as_fd()]);
    drop(its);
    answer(&mine)
}

/// The answer on a socket, of which nobody but the daemon has the other end: `None` if that was closed.
pub(crate) fn answer(socket: impl AsFd) -> Option<Result<Packet<ReplyHeader>, Error>> {
    poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&PATIENCE)).unwrap();
    match packet::receive::<ReplyHeader>(socket, RecvFlags::DONTWAIT) {
        Ok(packet) => Some(match packet.header.errno.get() {
            0 => Ok(packet),
            errno => Err(Error::from_errno(errno as u16)),
        }),
        Err(ReceiveError::Closed) => None,
        Err(other) => panic!("the daemon neither answers nor hangs up: {other:?}"),
    }
}

/// Opens a path.
pub(crate) fn open(socket: impl AsFd, path: &str) -> Result<OwnedFd, Error> {
    let answer = ask(socket, &request(Kind::Open as u32, 0, path.as_bytes()));
    answer.unwrap().map(|packet| packet.descriptor.unwrap())
}
