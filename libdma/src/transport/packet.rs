//! How requests lie in the packets of a `SOCK_SEQPACKET` socket; both ends use this.
//!
//! A request is one packet on the handle's socket, with the socket for its answer attached: a handle may
//! be held by several processes at once, and none of them must get another's answer. The answer is one
//! packet on that socket, with the new handle or the memory attached if there is one. Memory goes the other way, too:
//! behind the socket for the answer.
//!
//! Who makes many requests by one handle has a socket [kept](Kind::Keep) for them: they name it and bring none. It is the handle's, so
//! that it is closed with that, and when iommud dies.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::vec::Vec;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The longest payload of a packet, either way.
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// What the daemon sends on a device's handle when there are faults to be read, and nothing else ever does: the
/// only packet that comes without having been asked for. Whoever reads the faults takes it from the socket first.
pub const FAULTS_EVENT: [u8; 1] = *b"F";

/// Which request it is: [`RequestHeader::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// The payload is a path. Answered with a handle.
    Open = 1,
    /// The payload is one of [`crate::protocol::derive`]. Answered with a handle.
    Derive = 2,
    /// `argument` is the opcode. Answered with a payload.
    Call = 3,
    /// `argument` is the offset, the payload is empty. Answered with a payload, empty at the end.
    Read = 4,
    /// `argument` is how many bytes are to be mapped; the payload is one byte, 1 if they shall be
    /// writable. Answered with a memory object of which the buffer is the start.
    Map = 5,
    /// A second descriptor is attached: the memory that the handle waits for, a memfd. Answered with an empty payload,
    /// when the device can reach it.
    Supply = 6,
    /// The payload is empty. Answered with a new socket that is kept as long as the handle is open, to which nothing can be sent, and
    /// the number by which later requests on the handle name it, 8 bytes, which nobody else can guess: others may have the same
    /// handle.
    Keep = 7,
}

impl Kind {
    /// The request that a number stands for, if any.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Derive,
            3 => Self::Call,
            4 => Self::Read,
            5 => Self::Map,
            6 => Self::Supply,
            7 => Self::Keep,
            _ => return None,
        })
    }
}

/// In front of a request's payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RequestHeader {
    /// A [`Kind`].
    pub kind: U32,
    /// Zero.
    pub reserved: U32,
    /// What the kind says.
    pub argument: U64,
    /// The number of the [kept](Kind::Keep) socket to which the answer goes, or zero if one is attached for it.
    pub kept: U64,
}

/// In front of an answer's payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReplyHeader {
    /// Zero, or why the request failed.
    pub errno: U32,
    /// Zero.
    pub reserved: U32,
}

/// A packet that arrived: its header, its payload and the descriptors attached.
#[derive(Debug)]
pub struct Packet<H, Payload = Vec<u8>> {
    /// The header.
    pub header: H,
    /// What followed the header.
    pub payload: Payload,
    /// The first descriptor attached.
    pub descriptor: Option<OwnedFd>,
    /// The second. Any others were closed.
    pub memory: Option<OwnedFd>,
}

/// Why no packet could be taken from a socket.
#[derive(Debug)]
pub enum ReceiveError {
    /// The other end is closed.
    Closed,
    /// The packet is shorter than its header. What was attached is given, so that it can be answered.
    Short(Option<OwnedFd>),
    /// The packet is longer than allowed. What was attached is given, so that it can be answered.
    Long(Option<OwnedFd>),
    /// The system refused.
    System(Errno),
}

/// Sends a packet with at most two descriptors attached. Never blocks for a reader that does not read when
/// `flags` say so, and never raises `SIGPIPE`.
///
/// # Errors
///
/// Nothing was sent then. [`Errno::PIPE`], [`Errno::CONNRESET`] if the other end is closed, [`Errno::AGAIN`] if it would have
/// blocked and `flags` forbid that, [`Errno::MSGSIZE`] for more than a packet holds, [`Errno::NOBUFS`] for more than two
/// descriptors; else what `sendmsg` says.
pub fn send<H: IntoBytes + Immutable>(
    socket: impl AsFd,
    header: &H,
    payload: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::NOBUFS);
    }
    let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(payload)];
    loop {
        match sendmsg(&socket, &parts, &mut control, flags | SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Receives one packet, with a payload in memory of its own.
///
/// # Errors
///
/// As [`receive_into`]. The payload may be as long as [`MAX_PAYLOAD`].
pub fn receive<H: FromBytes + IntoBytes>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> Result<Packet<H>, ReceiveError> {
    let mut bytes = vec![0; MAX_PAYLOAD];
    let Packet { header, payload, descriptor, memory } = receive_into(socket, &mut bytes, flags)?;
    let length = payload.len();
    bytes.truncate(length);
    Ok(Packet { header, payload: bytes, descriptor, memory })
}

/// Receives one packet, whose payload comes to lie at the start of `place`.
///
/// # Errors
///
/// [`ReceiveError`]. A packet that is too short, or has more of a payload than there is place for, is off the socket; one that
/// has not come yet, where `flags` say not to wait, is a [`ReceiveError::System`] of [`Errno::AGAIN`].
pub fn receive_into<H: FromBytes + IntoBytes>(
    socket: impl AsFd,
    place: &mut [u8],
    flags: RecvFlags,
) -> Result<Packet<H, &mut [u8]>, ReceiveError> {
    let mut header = H::new_zeroed();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let result = loop {
        let mut parts = [IoSliceMut::new(header.as_mut_bytes()), IoSliceMut::new(place)];
        match recvmsg(&socket, &mut parts, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
            Ok(result) => break result,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Err(ReceiveError::Closed),
            Err(errno) => return Err(ReceiveError::System(errno)),
        }
    };
    let [mut descriptor, mut memory] = [None, None];
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for each in descriptors {
                let place = if descriptor.is_none() { &mut descriptor } else { &mut memory };
                place.get_or_insert(each);
            }
        }
    }
    if result.bytes == 0 {
        return Err(ReceiveError::Closed);
    }
    if result.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(ReceiveError::Long(descriptor));
    }
    match result.bytes.checked_sub(size_of::<H>()).and_then(|length| place.get_mut(..length)) {
        Some(payload) => Ok(Packet { header, payload, descriptor, memory }),
        None => Err(ReceiveError::Short(descriptor)),
    }
}
