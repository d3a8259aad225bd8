//! Answers, and the handles that go with them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use libdma::Error;
use libdma::transport::packet::{self, ReplyHeader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, shutdown, socketpair, sockopt,
};
use zerocopy::little_endian::U32;

/// Where an answer goes, or several, if it is kept.
#[derive(Clone, Debug)]
pub struct Reply {
    socket: Arc<OwnedFd>,
}

impl Reply {
    /// Takes the descriptor that came with a request. `None` if it is not the kind of socket that answers go
    /// to: on another one the same bytes might mean something to somebody, and they would come from root.
    pub fn new(descriptor: OwnedFd) -> Option<Self> {
        let unix = sockopt::socket_domain(&descriptor) == Ok(AddressFamily::UNIX);
        let packets = sockopt::socket_type(&descriptor) == Ok(SocketType::SEQPACKET);
        (unix && packets).then(|| Self { socket: Arc::new(descriptor) })
    }

    /// A place for several answers, and the end of it that is the client's. It is of this process's making and takes nothing: what a
    /// client brings, or sends there, might be what holds its own handle.
    pub fn kept() -> Result<(Self, OwnedFd), Errno> {
        let NewHandle { ours, theirs } = NewHandle::new()?;
        shutdown(&ours, Shutdown::Read)?;
        Ok((Self { socket: Arc::new(ours) }, theirs))
    }

    /// Whether somebody has the other end still.
    pub fn is_awaited(&self) -> bool {
        let mut looked = [PollFd::new(&*self.socket, PollFlags::empty())];
        let _ = poll(&mut looked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        !looked[0].revents().contains(PollFlags::HUP)
    }

    /// Answers that the request failed.
    pub fn refuse(self, error: Error) {
        self.send(error.errno().into(), &[], None);
    }

    /// Answers with a payload.
    pub fn payload(self, payload: &[u8]) {
        self.send(0, payload, None);
    }

    /// Answers with memory to be shared.
    pub fn memory(self, memory: &OwnedFd) {
        self.send(0, &[], Some(memory.as_fd()));
    }

    /// Answers with a handle: the client's end of it, of which no copy is left here then.
    pub fn handle(self, theirs: OwnedFd) {
        self.send(0, &[], Some(theirs.as_fd()));
    }

    /// Answers with a place for answers that is kept by this number: the client's end of it, of which no copy is left here then.
    pub fn place(self, number: u64, theirs: OwnedFd) {
        self.send(0, &number.to_le_bytes(), Some(theirs.as_fd()));
    }

    fn send(self, errno: u32, payload: &[u8], descriptor: Option<BorrowedFd<'_>>) {
        let header = ReplyHeader { errno: U32::new(errno), reserved: U32::ZERO };
        // A client that is gone, or has no room for the answer, does without.
        let attached = descriptor.as_slice();
        let sent = packet::send(&*self.socket, &header, payload, attached, SendFlags::DONTWAIT);
        if sent.is_err() {
            // Who waits at one that is kept would wait for good.
            let _ = shutdown(&*self.socket, Shutdown::Both);
        }
    }
}

/// A handle that is being made: both of its ends.
#[derive(Debug)]
pub struct NewHandle {
    /// The daemon's.
    pub ours: OwnedFd,
    /// The client's.
    pub theirs: OwnedFd,
}

impl NewHandle {
    /// Two connected sockets.
    pub fn new() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok(Self { ours, theirs })
    }
}
