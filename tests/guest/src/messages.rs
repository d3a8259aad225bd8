//! Messages between two processes as long as requests to iommud and their answers, with no work in them: what the system
//! takes for a request, and no transport can do without.
//!
//! As at iommud, those that are as maps and unmaps go back and forth on the same sockets, and a greeting comes with a socket of
//! its own for its answer.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use agent::measure::pairs;
use agent::requests::{BATCHES, SHORTEST, lengths};
use libdma::transport::packet::{MAX_PAYLOAD, ReplyHeader, RequestHeader};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg,
    socketpair,
};

use crate::failure::{Failure, Outcome, require};
use crate::other::Other;

/// The word by which this program is told to be the other process.
pub(crate) const WORD: &str = "answer-messages";

fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Counts, and tells each figure when it is there.
pub(crate) fn measure(mut tell: impl FnMut(String)) -> Outcome {
    let (mine, its) = pair()?;
    let _other = Other::start(WORD, its)?;
    let mut bytes = vec![0; size_of::<RequestHeader>() + MAX_PAYLOAD];
    let nothing = |()| Ok::<_, Failure>(());
    let greet = || exchange(&mine, &mut bytes, SHORTEST);
    tell(pairs("message/hello", greet, nothing)?);
    let bytes = RefCell::new(&mut bytes[..]);
    let back_and_forth = |payload| back_and_forth(&mine, &mut bytes.borrow_mut(), payload);
    for batch in BATCHES {
        let [make, undo] = lengths(batch);
        let name = format!("message/{batch}");
        tell(pairs(&name, || back_and_forth(make), |()| back_and_forth(undo))?);
    }
    Ok(())
}

/// Sends what is as long as a request with this payload, and waits on the same socket for its answer, which has as much.
fn back_and_forth(socket: &OwnedFd, bytes: &mut [u8], payload: usize) -> Outcome {
    let sent = size_of::<RequestHeader>() + payload;
    send(socket, &bytes[..sent], SendFlags::NOSIGNAL)?;
    let (answered, _) = recv(socket, &mut *bytes, RecvFlags::empty())?;
    require!(answered == size_of::<ReplyHeader>() + payload, "an answer of {answered} bytes");
    Ok(())
}

/// The same with a socket for the answer.
fn exchange(socket: &OwnedFd, bytes: &mut [u8], payload: usize) -> Outcome {
    let (mine, its) = pair()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let attached = [its.as_fd()];
    require!(control.push(SendAncillaryMessage::ScmRights(&attached)), "no room for a descriptor");
    let request = [IoSlice::new(&bytes[..size_of::<RequestHeader>() + payload])];
    sendmsg(socket, &request, &mut control, SendFlags::NOSIGNAL)?;
    drop(its);
    let (answered, _) = recv(&mine, &mut *bytes, RecvFlags::empty())?;
    require!(answered == size_of::<ReplyHeader>() + payload, "an answer of {answered} bytes");
    Ok(())
}

/// The other process: it answers whatever comes.
pub(crate) fn other() -> Outcome {
    let mut bytes = [0; size_of::<RequestHeader>() + MAX_PAYLOAD];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(io::stdin(), &mut parts, &mut control, flags)?.bytes;
        if received == 0 {
            return Ok(());
        }
        let mut descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        });
        let answer = &bytes[..size_of::<ReplyHeader>() + received - size_of::<RequestHeader>()];
        match descriptors.next() {
            Some(reply) => send(&reply, answer, SendFlags::NOSIGNAL)?,
            None => send(io::stdin(), answer, SendFlags::NOSIGNAL)?,
        };
    }
}
