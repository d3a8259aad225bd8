//! R5: packets of any length with any descriptors attached, of clients that come, go, and never read. Each that can be
//! answered is, by what it asked for or a typed error; nobody else waits; and no descriptor stays in the daemon.
//!
//! How much is tried, and how a failure is had again, is in the crate `fuzz`.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fuzz::{Chance, Steps, Trial};
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::{Hello, Opcode};
use libdma::protocol::derive::{Allocate, Copy, Kind as Derive, Register};
use libdma::transport::packet::{Kind, MAX_PAYLOAD, Packet, ReplyHeader};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, open,
};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketType, recv, send as send_bytes, shutdown};
use zerocopy::IntoBytes;

use crate::raw::{answer, ask, connection, pair, request, try_send};
use crate::rig::{Daemon, eventually};
use crate::vendor::Vendor;

/// The most handles that are open.
const MOST: usize = 24;

/// How long a header is.
const HEADER: usize = 24;

/// With so many descriptors a packet is refused, with four it is not: between the two, that depends on how the memory lies that
/// they are received in.
const TOO_MANY: usize = 7;

const PAGE: u64 = 4096;

/// Clients of one daemon, none of which means well.
struct Clients {
    daemon: Daemon,
    handles: Vec<OwnedFd>,
    /// Sockets on which answers come that nobody reads.
    unread: Vec<OwnedFd>,
    /// Other ends of what is no socket for an answer: nothing comes on them.
    silent: Vec<OwnedFd>,
    /// Somebody who means well.
    witness: OwnedFd,
    answered: u64,
}

/// What comes where the answer to a request should go.
enum Place {
    /// A socket of which this is the other end.
    Socket(OwnedFd),
    /// One that has no reader, or no room.
    Nowhere,
    /// No socket for answers.
    Wrong,
}

fn memfd(chance: &mut Chance) -> OwnedFd {
    let memfd = memfd_create("any", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, chance.below(4) as u64 * PAGE).unwrap();
    if !chance.once_in(4) {
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW).unwrap();
    }
    memfd
}

/// Bytes of a request to make a handle.
fn derive(chance: &mut Chance) -> Vec<u8> {
    let bytes = ((1 + chance.below(3)) as u64 * PAGE).into();
    let (access, align, limit) = (3.into(), PAGE.into(), u64::MAX.into());
    match chance.below(3) {
        0 => {
            let rights = (Rights::all().bits() & !(chance.next() as u32 & 0xf0)).into();
            Copy { kind: (Derive::Copy as u32).into(), rights }.as_bytes().to_vec()
        }
        1 => {
            let (kind, label) = ((Derive::Allocate as u32).into(), Allocate::label("any"));
            let (cache, reserved) = (0.into(), 0.into());
            let all = Allocate { kind, access, bytes, align, limit, cache, reserved, label };
            all.as_bytes().to_vec()
        }
        _ => {
            let (kind, label) = ((Derive::Register as u32).into(), Allocate::label("any"));
            let all = Register { kind, access, bytes, align, limit, address: 0.into(), label };
            all.as_bytes().to_vec()
        }
    }
}

/// A request as clients make them.
fn sensible(chance: &mut Chance) -> Vec<u8> {
    const PATHS: [&str; 8] = [
        "units",
        "device/0000--00--02.0",
        "sim/0000--00--02.0",
        "config.json",
        "nothing",
        "resume/0000--00--02.0",
        "quarantine/0000--00--02.0",
        "",
    ];
    match chance.below(13) {
        0..3 => request(Kind::Open as u32, 0, chance.one_of(&PATHS).as_bytes()),
        3..6 => request(Kind::Derive as u32, 0, &derive(chance)),
        6 => request(Kind::Call as u32, Opcode::Hello as u64, Hello::new().as_bytes()),
        7 => {
            let opcode = chance.below(0x24) as u64;
            request(Kind::Call as u32, opcode, &vec![0; 8 * chance.below(12)])
        }
        8 => request(Kind::Read as u32, chance.long() >> chance.below(64), &[]),
        9 => request(Kind::Map as u32, chance.below(3) as u64 * PAGE, &[chance.below(2) as u8]),
        10 => request(Kind::Keep as u32, 0, &[]),
        _ => request(Kind::Supply as u32, 0, &[]),
    }
}

/// A packet: a request, one that was changed, or bytes of any length.
fn packet(chance: &mut Chance) -> Vec<u8> {
    let mut bytes = sensible(chance);
    match chance.below(8) {
        0 => bytes.truncate(chance.below(HEADER + 2)),
        1 => {
            let length = chance.one_of(&[
                0,
                1,
                8,
                16,
                HEADER - 1,
                HEADER,
                HEADER + 1,
                HEADER + MAX_PAYLOAD - 1,
            ]);
            bytes.resize(length + chance.below(3), 0);
        }
        2 => bytes.resize(chance.below(4 * MAX_PAYLOAD), chance.byte()),
        3 | 4 => chance.change(&mut bytes),
        _ => {}
    }
    bytes
}

/// How a packet is answered that is no request, whatever the handle: told anew from what the packets are said to be.
fn refusal(packet: &[u8], descriptors: usize) -> Option<Error> {
    if packet.len() > HEADER + MAX_PAYLOAD || descriptors >= TOO_MANY {
        return Some(Error::TooLarge);
    }
    let Some((header, payload)) = packet.split_at_checked(HEADER) else {
        return Some(Error::ShortPayload);
    };
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    if !(1..=7).contains(&header[0]) || !is_zero(&header[1..4]) {
        return Some(Error::UnknownCall);
    }
    if !is_zero(&header[4..8]) || matches!(header[0], 1 | 2 | 6 | 7) && !is_zero(&header[8..16]) {
        return Some(Error::BadValue);
    }
    match (header[0], payload) {
        (1, path) if std::str::from_utf8(path).is_err() => Some(Error::NoSuchPath),
        (4 | 6 | 7, [_, ..]) | (5, [2..=u8::MAX, ..] | [_, _, ..]) => Some(Error::BadValue),
        (5, []) => Some(Error::ShortPayload),
        _ => None,
    }
}

/// Whether a packet names a socket that was kept, as none was by any number that is guessed.
fn names_kept(packet: &[u8], descriptors: usize) -> bool {
    let is_read = packet.len() <= HEADER + MAX_PAYLOAD && descriptors < TOO_MANY;
    is_read && packet.get(16..HEADER).is_some_and(|number| number.iter().any(|byte| *byte != 0))
}

impl Clients {
    fn new(vendor: Vendor) -> Self {
        let daemon = Daemon::start(vendor);
        let (handles, unread, silent) = (Vec::new(), Vec::new(), Vec::new());
        let witness = connection(&daemon);
        let clients = Self { daemon, handles, unread, silent, witness, answered: 0 };
        clients.ask_for_witness();
        clients
    }

    /// Somebody else asks, and is answered.
    fn ask_for_witness(&self) {
        let opened = crate::raw::open(&self.witness, "nothing");
        assert_eq!(opened.err(), Some(Error::NoSuchPath));
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.daemon.pid())).unwrap().count()
    }

    /// Something that is attached where it does not belong, or what the handle may wait for.
    fn any(&mut self, chance: &mut Chance) -> OwnedFd {
        let mut half = |kind| {
            let (mine, its) = pair(kind);
            self.silent.push(mine);
            its
        };
        let at = chance.below(self.handles.len());
        match chance.below(10) {
            0 => half(SocketType::STREAM),
            1 => half(SocketType::DGRAM),
            2 => {
                let (reader, writer) = std::io::pipe().unwrap();
                self.silent.push(reader.into());
                writer.into()
            }
            3 => open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap(),
            4 => open("/proc/self", OFlags::PATH, Mode::empty()).unwrap(),
            5 => eventfd(0, EventfdFlags::empty()).unwrap(),
            6 if at < self.handles.len() => self.handles[at].try_clone().unwrap(),
            _ => memfd(chance),
        }
    }

    /// Where an answer should go, and what the packet brings for that.
    fn place(&mut self, chance: &mut Chance) -> (Place, OwnedFd) {
        let (mine, its) = pair(SocketType::SEQPACKET);
        match chance.below(12) {
            0 => (Place::Wrong, self.any(chance)),
            1 => (Place::Nowhere, its),
            2 => {
                while send_bytes(&its, &[0; 4096], SendFlags::DONTWAIT) != Err(Errno::AGAIN) {}
                self.unread.push(mine);
                (Place::Nowhere, its)
            }
            _ => (Place::Socket(mine), its),
        }
    }

    /// One packet on one handle.
    fn send(&mut self, chance: &mut Chance) {
        let at = chance.below(self.handles.len());
        if at >= self.handles.len() {
            return self.handles.push(connection(&self.daemon));
        }
        let packet = packet(chance);
        let (place, first) = self.place(chance);
        let (place, mut attached) = match chance.once_in(16) {
            true => (Place::Wrong, Vec::new()),
            false => (place, vec![first]),
        };
        let is_supply = packet.first() == Some(&(Kind::Supply as u8));
        let more = if chance.once_in(6) {
            chance.one_of(&[1, 2, 3, 3, TOO_MANY - 1, TOO_MANY])
        } else {
            usize::from(is_supply)
        };
        attached
            .extend((0..more).map(|_| if is_supply { memfd(chance) } else { self.any(chance) }));
        let borrowed: Vec<BorrowedFd<'_>> = attached.iter().map(|it| it.as_fd()).collect();
        // Whoever is gone midway is gone before this is served, or after.
        let goes = chance.once_in(24);
        let sent = try_send(&self.handles[at], &packet, &borrowed);
        let count = attached.len();
        drop(attached);
        if goes {
            drop(self.handles.swap_remove(at));
        }
        match sent {
            Ok(()) => {}
            // It has shut its own end, or the daemon has closed the other.
            Err(Errno::PIPE | Errno::CONNRESET) => return,
            Err(other) => panic!("{} bytes with {count} descriptors: {other}", packet.len()),
        }
        let Place::Socket(mine) = place else { return };
        if goes || chance.once_in(16) {
            return self.unread.push(mine);
        }
        let answer = answer(&mine);
        if packet.is_empty() {
            return assert!(answer.is_none(), "an answer to nothing");
        }
        if names_kept(&packet, count) {
            return assert!(answer.is_none(), "an answer that belongs elsewhere");
        }
        match answer {
            Some(answer) => self.check(&packet, count, answer),
            // Others hold the handle, too, and one of them has shut it.
            None => assert!(self.is_shut(at), "no answer to {packet:x?} with {count} descriptors"),
        }
    }

    /// Whether the daemon has closed a handle, or its client has shut it.
    fn is_shut(&self, at: usize) -> bool {
        try_send(&self.handles[at], &[], &[]).is_err()
    }

    /// Whether this may be the answer to that.
    fn check(&mut self, packet: &[u8], count: usize, answer: Result<Packet<ReplyHeader>, Error>) {
        self.answered += u64::from(answer.is_ok());
        if let Some(refusal) = refusal(packet, count) {
            return assert_eq!(
                answer.err(),
                Some(refusal),
                "{:x?}, {count} descriptors",
                &packet[..packet.len().min(64)]
            );
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return assert!(!matches!(error, Error::Other(_)), "{error}"),
        };
        assert!(answer.memory.is_none() && answer.header.reserved.get() == 0);
        let brings = answer.descriptor.is_some();
        match packet[0] {
            1 | 2 => {
                assert!(brings && answer.payload.is_empty(), "a handle and nothing else");
                self.handles.extend(answer.descriptor);
                if let Some(new) = self.handles.last() {
                    let hello = Hello::new();
                    let greeting =
                        request(Kind::Call as u32, Opcode::Hello as u64, hello.as_bytes());
                    assert!(ask(new, &greeting).is_some());
                }
            }
            5 => assert!(brings && answer.payload.is_empty(), "memory and nothing else"),
            7 => assert!(brings && answer.payload.len() == 8, "a socket and its number"),
            _ => assert!(!brings && answer.payload.len() <= MAX_PAYLOAD),
        }
    }

    /// Many packets on one handle, whose answers go to one socket.
    fn flood(&mut self, chance: &mut Chance) {
        let Some(handle) = self.handles.get(chance.below(self.handles.len())) else { return };
        let (mine, its) = pair(SocketType::SEQPACKET);
        for _ in 0..chance.below(40) {
            if try_send(handle, &packet(chance), &[its.as_fd()]).is_err() {
                break;
            }
        }
        self.unread.push(mine);
    }

    fn step(&mut self, chance: &mut Chance) {
        match chance.below(40) {
            0 => self.handles.push(connection(&self.daemon)),
            1 => drop(chance.take(&mut self.handles)),
            2 => {
                if let Some(handle) = self.handles.get(chance.below(self.handles.len())) {
                    let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both];
                    let _ = shutdown(handle, chance.one_of(&how));
                }
            }
            3 => self.flood(chance),
            4 => self.ask_for_witness(),
            5 => drop(chance.take(&mut self.unread)),
            6 => {
                // The same handle twice: the first to go is not its end.
                let at = chance.below(self.handles.len());
                let copy = self.handles.get(at).map(|it| it.try_clone().unwrap());
                self.handles.extend(copy);
            }
            _ => self.send(chance),
        }
        while self.handles.len() > MOST {
            drop(chance.take(&mut self.handles));
        }
        self.unread.truncate(MOST);
    }

    /// All of them go, and nothing of theirs stays.
    fn end(mut self, before: usize) -> bool {
        self.ask_for_witness();
        self.handles.clear();
        self.unread.clear();
        // The answer to a request of before may have been open when it was counted.
        eventually(|| (self.descriptors() <= before).then_some(()));
        for silent in &self.silent {
            let got = recv(silent, &mut [0; 64], RecvFlags::DONTWAIT);
            assert_eq!(got.map_or(0, |(bytes, _)| bytes), 0, "an answer where none belongs");
        }
        drop(self.witness);
        self.daemon.is_well();
        self.answered > 0
    }
}

fn attempt(steps: Steps<'_>) -> bool {
    let mut clients = Clients::new(Vendor::Vtd);
    let before = clients.descriptors();
    for mut chance in steps {
        clients.step(&mut chance);
    }
    clients.end(before)
}

#[test]
fn r5_packets_of_any_shape_are_answered_or_ignored_and_leave_nothing() {
    Trial { name: "framing", steps: 4000, each: 500 }.run(attempt);
}
