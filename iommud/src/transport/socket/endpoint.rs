//! The daemon's ends of clients' handles.

use std::os::fd::OwnedFd;

use dma_types::PciAddress;
use iommu_service::{Caller, HandleId};
use libdma::transport::packet::FAULTS_EVENT;
use rustix::net::{SendFlags, send};

use super::accounts::Holder;
use super::reply::Reply;

/// Names an endpoint, or the listener. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

impl Token {
    /// The listener.
    pub const LISTENER: Self = Self(0);
}

/// What an endpoint is of.
#[derive(Clone, Copy, Debug)]
pub enum Object {
    /// The root, and who connected to it.
    Root(HandleId, Caller),
    /// Any other of the service's handles.
    Handle(HandleId),
    /// The registers of a simulated function, of which the service knows nothing.
    Simulated(PciAddress),
}

impl Object {
    /// The service's handle.
    pub fn handle(self) -> Option<HandleId> {
        match self {
            Self::Root(handle, _) | Self::Handle(handle) => Some(handle),
            Self::Simulated(_) => None,
        }
    }
}

/// The daemon's end of a handle.
#[derive(Debug)]
pub struct Endpoint {
    /// The socket. There is no other copy of it, so that dropping it closes it.
    pub socket: OwnedFd,
    /// What it is of.
    pub object: Object,
    /// On whose account it is.
    pub holder: Holder,
    /// Where answers go that are named by these numbers. Each is on the account as a handle is.
    pub kept: Vec<(u64, Reply)>,
}

impl Endpoint {
    /// The daemon's end of a handle that has just been made.
    pub fn new(socket: OwnedFd, object: Object, holder: Holder) -> Self {
        Self { socket, object, holder, kept: Vec::new() }
    }

    /// Where the answer to a request goes that came with this number, or else with a socket.
    pub fn reply(&self, number: u64, attached: Option<OwnedFd>) -> Option<Reply> {
        match number {
            0 => attached.and_then(Reply::new),
            _ => self.kept.iter().find(|(known, _)| *known == number).map(|(_, it)| it.clone()),
        }
    }

    /// Makes the client's end readable: there are faults to be read.
    pub fn tell_readable(&self) {
        // A client that is gone needs nothing, and there is room: the next is sent only when it has read.
        let _ = send(&self.socket, &FAULTS_EVENT, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}
