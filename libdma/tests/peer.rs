//! A buffer from a process that is no iommud: what it sends is looked at before it is mapped.
#![cfg(all(target_os = "linux", feature = "socket"))]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use libdma::protocol::call::{BufferInfo, Opcode, Welcome};
use libdma::protocol::{MAX_BATCH, Rights, VERSION};
use libdma::transport::packet::{self, Kind, ReplyHeader, RequestHeader};
use libdma::transport::socket::Socket;
use libdma::{Error, SharedBuffer};
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
};
use rustix::io::{Errno, dup};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use zerocopy::{FromZeros, IntoBytes};

/// How long it says that its buffer is.
const BYTES: usize = 8192;

/// Answers as if it were iommud and had a buffer of [`BYTES`] bytes, whose memory is this object.
fn answer(socket: &OwnedFd, object: Option<&OwnedFd>) {
    while let Ok(request) = packet::receive::<RequestHeader>(socket, RecvFlags::empty()) {
        let mut welcome = Welcome::new_zeroed();
        (welcome.version, welcome.max_batch) = (VERSION.into(), (MAX_BATCH as u32).into());
        let mut info = BufferInfo::new_zeroed();
        (info.bytes, info.rights) = ((BYTES as u64).into(), Rights::all().bits().into());
        let (payload, object) = match request.header.kind.get() {
            kind if kind == Kind::Map as u32 => (&[][..], object),
            _ if request.header.argument == Opcode::Hello as u64 => (welcome.as_bytes(), None),
            _ => (info.as_bytes(), None),
        };
        let attached: Vec<_> = object.iter().map(|object| object.as_fd()).collect();
        let (to, header) = (request.descriptor.unwrap(), ReplyHeader::new_zeroed());
        packet::send(to, &header, payload, &attached, SendFlags::empty()).unwrap();
    }
}

/// What comes of mapping the buffer of a process that sends this for its memory.
fn mapped(object: Option<&OwnedFd>) -> Result<SharedBuffer, Error> {
    let (mine, its) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let object = object.map(|object| dup(object).unwrap());
    // It ends with the handle.
    thread::spawn(move || answer(&its, object.as_ref()));
    SharedBuffer::from_handle(Socket::handle(mine))
}

fn memfd(flags: MemfdFlags, bytes: usize, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags;
    let memfd = memfd_create("peer", flags).unwrap();
    ftruncate(&memfd, bytes as u64).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

#[test]
fn r5_memory_that_could_be_cut_short_under_its_reader_is_not_mapped() {
    for seals in [SealFlags::empty(), SealFlags::GROW, SealFlags::GROW | SealFlags::SEAL] {
        let memfd = memfd(MemfdFlags::empty(), BYTES, seals);
        assert_eq!(mapped(Some(&memfd)).err(), Some(Error::NotMemory), "{seals:?}");
    }
}

#[test]
fn r5_memory_that_is_shorter_than_its_buffer_is_not_mapped() {
    for bytes in [0, 1, 4096, BYTES - 1] {
        let memfd = memfd(MemfdFlags::empty(), bytes, SealFlags::SHRINK);
        assert_eq!(mapped(Some(&memfd)).err(), Some(Error::OutOfBuffer), "{bytes}");
    }
}

#[test]
fn r5_what_is_no_memory_object_is_not_mapped() {
    let (one, _other) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    // A file, which whoever may write to it could cut short; a device; what cannot be mapped at all.
    let file = std::env::current_exe().unwrap();
    let [file, zero] = [file, "/dev/zero".into()].map(|path| File::open(path).unwrap().into());
    for object in [file, zero, one] {
        assert_eq!(mapped(Some(&object)).err(), Some(Error::NotMemory), "{object:?}");
    }
    assert_eq!(mapped(None).err(), Some(Error::BadValue));
}

#[test]
fn r5_huge_pages_are_looked_at_as_well() {
    let huge = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let unsealed = memfd(huge, 2 << 20, SealFlags::empty());
    assert_eq!(mapped(Some(&unsealed)).err(), Some(Error::NotMemory));
    // One of no pages: they are mapped by whole ones, of which there is none.
    let empty = memfd(huge, 0, SealFlags::SHRINK);
    assert_eq!(mapped(Some(&empty)).err(), Some(Error::OutOfBuffer));
    // Whether the machine has such pages or not, what is sealed is mapped or refused for want of memory.
    let sealed = memfd(huge, 2 << 20, SealFlags::SHRINK);
    assert!(matches!(mapped(Some(&sealed)).err(), None | Some(Error::OutOfMemory)));
}

#[test]
fn memory_that_stays_is_mapped_and_cannot_be_cut_short_any_more() {
    let memfd = memfd(MemfdFlags::empty(), BYTES, SealFlags::SHRINK);
    let shared = mapped(Some(&memfd)).unwrap();
    shared.write(4096, b"stays").unwrap();
    assert_eq!(ftruncate(&memfd, 0), Err(Errno::PERM));
    let mut out = [0; 5];
    shared.read(4096, &mut out).unwrap();
    assert_eq!(&out, b"stays");
    assert!(fcntl_get_seals(&memfd).unwrap().contains(SealFlags::SHRINK));
}
