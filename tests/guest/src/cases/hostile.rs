//! A client that does not keep to the protocol.

use std::fs::File;
use std::io::{IoSlice, pipe};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with, socketpair,
};

use crate::devices;
use crate::failure::{Outcome, require};
use crate::programs::{Program, serving, start_iommud};
use crate::traces::Traces;

const SOCKET: &str = "/run/iommud.sock";

/// Lengths of packets: none, less than a header's 16 bytes, a header, more, the most that is taken, and more
/// than that.
const LENGTHS: [usize; 9] = [0, 1, 15, 16, 17, 80, 4096, 16 * 1024 + 16, 16 * 1024 + 17];

/// Numbers of requests: those that there are, and their neighbours.
const KINDS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, u32::MAX];

/// What a request may be about: opcodes, offsets, sizes.
const ARGUMENTS: [u64; 8] = [0, 1, 2, 4, 5, 4096, 1 << 63, u64::MAX];

pub(super) fn garbage_disturbs_nobody() -> Outcome {
    let iommud = start_iommud()?;
    let serves = serving(&iommud)?;
    let before = Traces::now()?;
    let name = devices::edu()?.name();
    let mut driver = Program::start("edud", &["--device", &name, "--rounds", "4"])?;
    driver.wait_line("in domain")?;
    come_and_go()?;
    packets_of_all_lengths()?;
    requests_of_all_kinds()?;
    odd_descriptors()?;
    let end = driver.finish()?.expect(0)?;
    require!(end.line("round 4/4")?.ends_with("intact"), "the driver's data is not intact");
    before.wait_for_return()?;
    require!(serving(&iommud)? == serves, "iommud had to be started again");
    Ok(())
}

fn client() -> Outcome<OwnedFd> {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    Ok(socket)
}

fn pair(kind: SocketType) -> Outcome<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// Sends a packet. iommud may have hung up, and the system may find it too large: both are answers.
fn send(socket: &OwnedFd, packet: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let _ = sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL);
}

/// A request's bytes: kind, zero, argument, payload.
fn request(kind: u32, argument: u64, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::from(u64::from(kind).to_le_bytes());
    packet.extend(argument.to_le_bytes());
    packet.extend(payload);
    packet
}

/// Clients that want nothing.
fn come_and_go() -> Outcome {
    for _ in 0..200 {
        client()?;
    }
    Ok(())
}

/// Packets that are no requests, with and without a socket for the answer, which nobody reads.
fn packets_of_all_lengths() -> Outcome {
    let (_mine, its) = pair(SocketType::SEQPACKET)?;
    for byte in [0x00, 0x01, 0x7f, 0xff] {
        let socket = client()?;
        for length in LENGTHS {
            let packet = vec![byte; length];
            send(&socket, &packet, &[]);
            send(&socket, &packet, &[its.as_fd()]);
        }
    }
    Ok(())
}

/// Requests whose form is right and whose content is not, with answers that are not read, or cannot be.
fn requests_of_all_kinds() -> Outcome {
    let payloads: [&[u8]; 5] = [b"", b"units", b"device/0000--00--04.0", b"\xff\xff", &[0x41; 64]];
    let socket = client()?;
    for kind in KINDS {
        for argument in ARGUMENTS {
            for payload in payloads {
                let (mine, its) = pair(SocketType::SEQPACKET)?;
                if argument % 2 == 0 {
                    drop(mine);
                }
                send(&socket, &request(kind, argument, payload), &[its.as_fd()]);
            }
        }
    }
    Ok(())
}

/// Descriptors for the answer that are not for answers, and more of them than one.
fn odd_descriptors() -> Outcome {
    let socket = client()?;
    let open = request(1, 0, b"mappings");
    let (read, write) = pipe()?;
    let (stream, _other) = pair(SocketType::STREAM)?;
    let null = File::open("/dev/null")?;
    let all = [read.as_fd(), write.as_fd(), stream.as_fd(), null.as_fd(), socket.as_fd()];
    for each in all {
        send(&socket, &open, &[each]);
    }
    // All of them at once, which is more than is taken.
    send(&socket, &open, &all);
    send(&socket, &open, &[all, all].concat()[..8]);
    Ok(())
}
