//! What goes between the keeper and the process that serves: packets on a socket pair.
//!
//! Memory is a memfd, attached to the packet that says what it is. From the moment at which a packet is sent, the
//! memory is the socket's, whoever dies then: it can be read when its sender is dead, and is given back only when the
//! other end is closed unread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libdma::transport::packet::{self, ReceiveError};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::daemon::hand_over::Report;

/// What some memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Tables. The first of them has the arena's header in its first frame.
    Tables = 1,
    /// A run of the daemon's own.
    Run = 2,
    /// A run that a client has registered.
    Clients = 3,
}

/// A memfd that hardware may reach.
#[derive(Debug)]
pub struct Piece {
    /// What it is for.
    pub purpose: Purpose,
    /// Its number: no other memory has it as long as the keeper lives, and later memory has a higher one.
    pub number: u64,
    /// Its length.
    pub bytes: u64,
    /// The memfd.
    pub memory: OwnedFd,
}

/// The same, which stays where it is.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// As in [`Piece`].
    pub purpose: Purpose,
    /// As there.
    pub number: u64,
    /// As there.
    pub bytes: u64,
    /// As there.
    pub memory: BorrowedFd<'a>,
}

/// What is said.
#[derive(Debug)]
pub enum Parcel {
    /// This is to be kept, or was kept.
    Piece(Piece),
    /// The memory with this number is nobody's any more. Only the keeper is told this.
    Gone(u64),
    /// What became of the units. Only the keeper is told this.
    Report(Report),
    /// That was all that was kept, and this is the highest number that any memory ever had. Only the process that serves is
    /// told this, and a keeper that comes after another.
    End(u64),
}

/// Why there is no parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoParcel {
    /// The other end is closed.
    Closed,
    /// There is none yet.
    None,
    /// What came makes no sense, and was thrown away.
    Garbled,
    /// The system refused.
    System(Errno),
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    what: U64,
    number: U64,
    bytes: U64,
}

/// Besides the purposes of memory.
const GONE: u64 = 4;
const REPORT: u64 = 5;
const END: u64 = 6;

/// Says something. It never waits.
///
/// # Errors
///
/// Nothing was said then: [`Errno::PIPE`] or [`Errno::CONNRESET`] if the other end is closed, [`Errno::AGAIN`] if it has too
/// much to read already.
pub fn send(socket: impl AsFd, parcel: &Parcel) -> Result<(), Errno> {
    match parcel {
        Parcel::Piece(Piece { purpose, number, bytes, memory }) => {
            send_piece(socket, *purpose, *number, *bytes, memory.as_fd())
        }
        Parcel::Gone(number) => send_words(socket, [GONE, *number, 0], &[]),
        Parcel::Report(report) => send_words(socket, [REPORT, *report as u64, 0], &[]),
        Parcel::End(last) => send_words(socket, [END, *last, 0], &[]),
    }
}

/// The same of memory that stays with the sender, too.
///
/// # Errors
///
/// As [`send`].
pub fn send_piece(
    socket: impl AsFd,
    purpose: Purpose,
    number: u64,
    bytes: u64,
    memory: BorrowedFd<'_>,
) -> Result<(), Errno> {
    send_words(socket, [purpose as u64, number, bytes], &[memory])
}

fn send_words(
    socket: impl AsFd,
    words: [u64; 3],
    attached: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let [what, number, bytes] = words.map(U64::new);
    packet::send(socket, &Header { what, number, bytes }, &[], attached, SendFlags::DONTWAIT)
}

/// Takes the next parcel.
///
/// # Errors
///
/// [`NoParcel`].
pub fn receive(socket: impl AsFd, flags: RecvFlags) -> Result<Parcel, NoParcel> {
    // One who is gone without having read all is told of once, before what it said last (Linux, net/core/datagram.c).
    let packet = match packet::receive::<Header>(&socket, flags) {
        Err(ReceiveError::Closed) => packet::receive::<Header>(&socket, flags),
        received => received,
    };
    let packet = packet.map_err(|error| match error {
        ReceiveError::Closed => NoParcel::Closed,
        ReceiveError::Short(_) | ReceiveError::Long(_) => NoParcel::Garbled,
        ReceiveError::System(Errno::AGAIN) => NoParcel::None,
        ReceiveError::System(errno) => NoParcel::System(errno),
    })?;
    let Header { what, number, bytes } = packet.header;
    let (number, bytes) = (number.get(), bytes.get());
    let purposes = [Purpose::Tables, Purpose::Run, Purpose::Clients];
    let purpose = purposes.into_iter().find(|it| *it as u64 == what.get());
    let attached = (packet.descriptor, packet.memory, packet.payload.len());
    match (purpose, what.get(), attached) {
        (Some(purpose), _, (Some(memory), None, 0)) => {
            Ok(Parcel::Piece(Piece { purpose, number, bytes, memory }))
        }
        (None, GONE, (None, None, 0)) => Ok(Parcel::Gone(number)),
        (None, REPORT, (None, None, 0)) => {
            let report = u8::try_from(number).ok().and_then(Report::from_byte);
            report.map(Parcel::Report).ok_or(NoParcel::Garbled)
        }
        (None, END, (None, None, 0)) => Ok(Parcel::End(number)),
        _ => Err(NoParcel::Garbled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn memfd(bytes: u64) -> OwnedFd {
        let memory = memfd_create("parcel", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, bytes).unwrap();
        memory
    }

    #[test]
    fn r2_what_was_sent_is_there_when_its_sender_is_gone() {
        let (near, far) = pair();
        let memory = memfd(4096);
        send_piece(&near, Purpose::Clients, 7, 4096, memory.as_fd()).unwrap();
        send(&near, &Parcel::Gone(3)).unwrap();
        send(&near, &Parcel::Report(Report::SomeDoNot)).unwrap();
        drop((near, memory));
        let Ok(Parcel::Piece(piece)) = receive(&far, RecvFlags::DONTWAIT) else {
            panic!("no memory");
        };
        assert_eq!((piece.purpose, piece.number, piece.bytes), (Purpose::Clients, 7, 4096));
        assert_eq!(fstat(&piece.memory).unwrap().st_size, 4096);
        assert!(matches!(receive(&far, RecvFlags::DONTWAIT), Ok(Parcel::Gone(3))));
        assert!(matches!(
            receive(&far, RecvFlags::DONTWAIT),
            Ok(Parcel::Report(Report::SomeDoNot))
        ));
        assert_eq!(receive(&far, RecvFlags::DONTWAIT).unwrap_err(), NoParcel::Closed);
    }

    #[test]
    fn r2_what_was_said_last_is_heard_of_one_who_did_not_listen() {
        let (near, far) = pair();
        send(&far, &Parcel::End(0)).unwrap();
        send(&near, &Parcel::Gone(3)).unwrap();
        drop(near);
        assert!(matches!(receive(&far, RecvFlags::DONTWAIT), Ok(Parcel::Gone(3))));
        assert_eq!(receive(&far, RecvFlags::DONTWAIT).unwrap_err(), NoParcel::Closed);
    }

    #[test]
    fn r5_what_makes_no_sense_is_thrown_away() {
        let (near, far) = pair();
        let memory = memfd(4096);
        let one = &[memory.as_fd()][..];
        let two = &[memory.as_fd(), memory.as_fd()][..];
        for (words, attached) in [
            ([0, 0, 0], &[][..]),
            ([7, 0, 0], &[]),
            ([u64::MAX, 0, 0], &[]),
            ([1, 1, 4096], &[]),
            ([1, 1, 4096], two),
            ([GONE, 1, 0], one),
            ([END, 0, 0], one),
            ([REPORT, 0, 0], &[]),
            ([REPORT, 257, 0], &[]),
        ] {
            send_words(&near, words, attached).unwrap();
            let received = receive(&far, RecvFlags::DONTWAIT);
            assert_eq!(received.unwrap_err(), NoParcel::Garbled, "{words:?}");
        }
        for bytes in [&b"short"[..], &[1; 25], &[1; 4096], &[1; 100_000]] {
            rustix::net::send(&near, bytes, SendFlags::empty()).unwrap();
            let received = receive(&far, RecvFlags::DONTWAIT);
            assert_eq!(received.unwrap_err(), NoParcel::Garbled, "{}", bytes.len());
        }
        assert_eq!(receive(&far, RecvFlags::DONTWAIT).unwrap_err(), NoParcel::None);
        send(&near, &Parcel::End(9)).unwrap();
        assert!(matches!(receive(&far, RecvFlags::DONTWAIT), Ok(Parcel::End(9))));
    }

    #[test]
    fn nobody_waits_for_one_who_does_not_read() {
        let (near, far) = pair();
        let refused = loop {
            if let Err(errno) = send(&near, &Parcel::Gone(1)) {
                break errno;
            }
        };
        assert_eq!(refused, Errno::AGAIN);
        drop(far);
        assert!(matches!(send(&near, &Parcel::End(0)), Err(Errno::PIPE | Errno::CONNRESET)));
    }
}
