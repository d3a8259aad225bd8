//! Memory that clients register: memfds, from clients that do and do not mean well (R2 to R5, R7).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::{env, process};

use libdma::protocol::call::{Hello, Opcode};
use libdma::protocol::derive::{Allocate, Kind as Derive, Register};
use libdma::transport::packet::Kind;
use libdma::{Access, Buffer, Device, Error, ForeignMemory, MapRequest};
use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals,
    fcntl_get_seals, ftruncate, memfd_create, open,
};
use rustix::io::Errno;
use rustix::net::SocketType;
use zerocopy::IntoBytes;

use crate::child::Holder;
use crate::edu::Edu;
use crate::raw::{answer, ask, pair, request, send};
use crate::rig::{Daemon, edu, eventually};
use crate::vendor::Vendor;

both! {
    a_device_reads_and_writes_registered_memory_as_its_driver_sees_it,
    pieces_of_registered_memory_are_mapped_in_one_call,
    a_memfd_that_a_driver_has_already_is_registered_with_what_is_in_it,
    r2_no_hole_is_punched_into_memory_that_a_device_reaches,
    r4_memory_of_a_client_that_dies_is_kept_until_no_device_reaches_it,
    r5_what_is_not_the_clients_own_sealed_memfd_is_refused,
    r5_memory_for_a_handle_that_waits_for_none_is_refused,
    r5_a_client_that_dies_after_sending_leaves_nothing,
    r3_a_memfd_that_its_sender_may_only_read_is_refused,
    r3_the_daemons_own_memory_is_refused,
    r7_a_refused_memfd_is_as_it_was_and_another_may_be_sent,
    registered_memory_can_be_seen_through_its_handle_but_not_written,
}

const PAGE: usize = 4096;
const LENGTH: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

fn register(device: &Device, bytes: usize) -> Buffer {
    let memory = ForeignMemory::new(bytes).unwrap();
    memory.write(0, b"from the driver").unwrap();
    device.register(memory, Some(Access::ReadWrite), "mine").unwrap()
}

fn memfd(pages: usize, seals: SealFlags) -> OwnedFd {
    let memfd = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, (pages * PAGE) as u64).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

fn seals(memfd: &OwnedFd) -> SealFlags {
    fcntl_get_seals(memfd).unwrap()
}

fn punch(memfd: &OwnedFd) -> rustix::io::Result<()> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(memfd, hole, 0, PAGE as u64)
}

/// The socket of a handle.
fn socket(handle: &libdma::Handle) -> BorrowedFd<'_> {
    // SAFETY: the handle is open for as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(handle.raw().number() as i32) }
}

/// A handle that waits for two pages.
fn waiting(device: &Device) -> OwnedFd {
    let register = Register {
        kind: (Derive::Register as u32).into(),
        access: 3.into(),
        bytes: (2 * PAGE as u64).into(),
        align: 4096.into(),
        limit: u64::MAX.into(),
        address: 0.into(),
        label: Allocate::label("raw"),
    };
    let packet = request(Kind::Derive as u32, 0, register.as_bytes());
    let handle = ask(socket(device.handle()), &packet).unwrap().unwrap().descriptor.unwrap();
    let hello = request(Kind::Call as u32, Opcode::Hello as u64, Hello::new().as_bytes());
    ask(&handle, &hello).unwrap().unwrap();
    handle
}

fn supply(handle: impl AsFd, memory: impl AsFd) -> Result<(), Error> {
    let (mine, its) = pair(SocketType::SEQPACKET);
    let packet = request(Kind::Supply as u32, 0, &[]);
    send(handle, &packet, &[its.as_fd(), memory.as_fd()]);
    drop(its);
    answer(&mine).expect("an answer").map(drop)
}

fn a_device_reads_and_writes_registered_memory_as_its_driver_sees_it(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let transport = daemon.connect();
    let device = Device::open(transport.clone(), edu()).unwrap();
    let registers = Edu::open(transport).unwrap();
    let memory = ForeignMemory::new(3 * PAGE).unwrap();
    let place = memory.cpu_address();
    memory.write(0, b"from the driver").unwrap();
    let buffer = device.register(memory, Some(Access::ReadWrite), "mine").unwrap();
    assert_eq!((buffer.len(), buffer.cpu_address()), (3 * PAGE, place));
    let iova = buffer.iova().unwrap();
    registers.read(iova, 15);
    registers.write(iova.checked_add(2 * PAGE as u64).unwrap(), 15);
    let mut found = [0; 15];
    buffer.read(2 * PAGE, &mut found).unwrap();
    assert_eq!(&found, b"from the driver");
    assert_eq!(daemon.report("mappings")[0]["label"], "mine");
    drop((buffer, device, registers));
    daemon.is_well();
}

fn pieces_of_registered_memory_are_mapped_in_one_call(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let transport = daemon.connect();
    let device = Device::open(transport.clone(), edu()).unwrap();
    let registers = Edu::open(transport).unwrap();
    let memory = ForeignMemory::new(64 * PAGE).unwrap();
    memory.write(0, b"page of a list").unwrap();
    let buffer = device.register(memory, None, "list").unwrap();
    assert_eq!(buffer.iova(), None);
    let pieces: Vec<_> = (0..64u64)
        .map(|page| MapRequest {
            buffer: &buffer,
            offset: page * PAGE as u64,
            bytes: PAGE as u64,
            access: if page == 0 { Access::Read } else { Access::Write },
        })
        .collect();
    let mapped = device.map(&pieces).unwrap();
    registers.read(mapped[0].iova(), 14);
    registers.write(mapped[63].iova(), 14);
    let mut found = [0; 14];
    buffer.read(63 * PAGE, &mut found).unwrap();
    assert_eq!(&found, b"page of a list");
    device.unmap(&mapped).unwrap();
    registers.write(mapped[62].iova(), 14);
    buffer.read(62 * PAGE, &mut found).unwrap();
    assert_eq!(found, [0; 14], "unmapped is unmapped");
}

fn a_memfd_that_a_driver_has_already_is_registered_with_what_is_in_it(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let transport = daemon.connect();
    let device = Device::open(transport.clone(), edu()).unwrap();
    let registers = Edu::open(transport).unwrap();
    let own = memfd(2, SealFlags::empty());
    rustix::io::pwrite(&own, b"written before", 100).unwrap();
    let memory = ForeignMemory::from_memfd(own.try_clone().unwrap()).unwrap();
    let buffer = device.register(memory, Some(Access::ReadWrite), "memfd").unwrap();
    let iova = buffer.iova().unwrap();
    registers.read(iova.checked_add(100).unwrap(), 14);
    registers.write(iova, 14);
    let mut found = [0; 14];
    rustix::io::pread(&own, &mut found, 0).unwrap();
    assert_eq!(&found, b"written before");
    assert_eq!(rustix::io::pwrite(&own, b"no more", 0), Err(Errno::PERM));
}

fn r2_no_hole_is_punched_into_memory_that_a_device_reaches(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let own = memfd(1, SealFlags::empty());
    let memory = ForeignMemory::from_memfd(own.try_clone().unwrap()).unwrap();
    memory.write(0, b"here").unwrap();
    punch(&own).unwrap();
    memory.write(0, b"HERE").unwrap();
    let buffer = device.register(memory, Some(Access::ReadWrite), "whole").unwrap();
    assert_eq!(punch(&own), Err(Errno::PERM));
    assert_eq!(ftruncate(&own, 0), Err(Errno::PERM));
    let mut found = [0; 4];
    buffer.read(0, &mut found).unwrap();
    assert_eq!(&found, b"HERE");
    buffer.write(0, b"more").unwrap();
}

fn r4_memory_of_a_client_that_dies_is_kept_until_no_device_reaches_it(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let registers = Edu::open(daemon.connect()).unwrap();
    // This process has neither a mapping nor a descriptor of it left.
    let own = memfd(2, LENGTH);
    let handle = waiting(&device);
    rustix::io::pwrite(&own, b"not lost", 0).unwrap();
    supply(&handle, &own).unwrap();
    drop(own);
    let mapped = daemon.report("mappings");
    let iova = mapped[0]["iova"].as_str().unwrap().trim_start_matches("0x").to_owned();
    let iova = libdma::Iova::new(u64::from_str_radix(&iova, 16).unwrap());
    registers.read(iova, 8);
    registers.write(iova.checked_add(PAGE as u64).unwrap(), 8);
    let map = request(Kind::Map as u32, 2 * PAGE as u64, &[0]);
    let seen = ask(&handle, &map).unwrap().unwrap().descriptor.unwrap();
    let mut found = [0; 8];
    rustix::io::pread(&seen, &mut found, PAGE as u64).unwrap();
    assert_eq!(&found, b"not lost");
    drop((seen, handle));
    eventually(|| daemon.report("mappings").is_empty().then_some(()));
    drop((device, registers));
    daemon.is_well();
}

fn r5_what_is_not_the_clients_own_sealed_memfd_is_refused(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let handle = waiting(&device);
    let file =
        env::temp_dir().join(format!("iommud-registered-{}-{}", process::id(), vendor.option()));
    File::create(&file).unwrap().set_len(2 * PAGE as u64).unwrap();
    for path in [file.as_path(), Path::new("/dev/zero"), Path::new("/proc/self/exe")] {
        let opened = open(path, OFlags::RDONLY, Mode::empty()).unwrap();
        assert_eq!(supply(&handle, opened), Err(Error::NotMemory), "{}", path.display());
    }
    std::fs::remove_file(file).unwrap();
    if let Ok(memory) = open("/dev/mem", OFlags::RDWR, Mode::empty()) {
        assert_eq!(supply(&handle, memory), Err(Error::NotMemory));
    }
    assert_eq!(supply(&handle, socket(device.handle())), Err(Error::NotMemory));
    assert_eq!(supply(&handle, pair(SocketType::STREAM).0), Err(Error::NotMemory));
    for missing in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::GROW] {
        assert_eq!(supply(&handle, memfd(2, missing)), Err(Error::NotOwnMemory), "{missing:?}");
    }
    assert_eq!(supply(&handle, memfd(1, LENGTH)), Err(Error::OutOfBuffer));
    assert_eq!(supply(&handle, memfd(0, LENGTH)), Err(Error::OutOfBuffer));
    assert_eq!(supply(&handle, memfd(3, LENGTH)), Err(Error::TooLarge));
    // Nothing at all, and more than nothing where there should be nothing.
    let nothing = ask(&handle, &request(Kind::Supply as u32, 0, &[])).unwrap();
    assert_eq!(nothing.map(drop), Err(Error::NotMemory));
    for (argument, payload) in [(1, &[][..]), (0, &[0][..])] {
        let packet = request(Kind::Supply as u32, argument, payload);
        assert_eq!(ask(&handle, &packet).unwrap().map(drop), Err(Error::BadValue));
    }
    assert!(daemon.report("mappings").is_empty());
    supply(&handle, memfd(2, LENGTH)).unwrap();
    drop((handle, device));
    daemon.is_well();
}

fn r5_memory_for_a_handle_that_waits_for_none_is_refused(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let root = crate::raw::connection(&daemon);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let registers = Edu::open(daemon.connect()).unwrap();
    let buffer = device.allocate(PAGE as u64, None, "has some").unwrap();
    let units = crate::raw::open(&root, "units").unwrap();
    for handle in [socket(device.handle()), socket(buffer.handle()), units.as_fd(), root.as_fd()] {
        assert_eq!(supply(handle, memfd(2, LENGTH)), Err(Error::WrongHandleKind));
    }
    let own = memfd(2, LENGTH);
    let handle = waiting(&device);
    supply(&handle, &own).unwrap();
    assert_eq!(supply(&handle, memfd(2, LENGTH)), Err(Error::WrongHandleKind), "twice");
    assert_eq!(supply(waiting(&device), &own), Err(Error::NotOwnMemory), "the same once more");
    drop(handle);
    eventually(|| daemon.report("mappings").is_empty().then_some(()));
    assert_eq!(supply(waiting(&device), &own), Err(Error::NotOwnMemory), "nor ever again");
    drop((buffer, units, root, device, registers));
    daemon.is_well();
}

fn r5_a_client_that_dies_after_sending_leaves_nothing(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    for _ in 0..20 {
        let device = daemon.reopen();
        let handle = waiting(&device);
        let (mine, its) = pair(SocketType::SEQPACKET);
        let packet = request(Kind::Supply as u32, 0, &[]);
        send(&handle, &packet, &[its.as_fd(), memfd(2, LENGTH).as_fd()]);
        drop((mine, its, handle, device));
    }
    daemon.is_well();
    // And one that is killed while it has some registered.
    let holder = Holder::registering(&daemon.socket());
    assert_eq!(daemon.report("mappings")[0]["label"], "of a child");
    drop(holder);
    daemon.is_well();
}

fn r3_a_memfd_that_its_sender_may_only_read_is_refused(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let handle = waiting(&device);
    // As it is given to whoever shall see and not change it: opened for reading, or sealed.
    let whole = memfd(2, LENGTH);
    let path = format!("/proc/self/fd/{}", whole.as_raw_fd());
    let read_only = open(path, OFlags::RDONLY, Mode::empty()).unwrap();
    assert_eq!(supply(&handle, read_only), Err(Error::NotOwnMemory));
    for seal in [SealFlags::FUTURE_WRITE, SealFlags::WRITE, SealFlags::SEAL] {
        assert_eq!(supply(&handle, memfd(2, LENGTH | seal)), Err(Error::NotOwnMemory), "{seal:?}");
    }
    assert!(daemon.report("mappings").is_empty());
}

fn r3_the_daemons_own_memory_is_refused(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let buffer = device.allocate(2 * PAGE as u64, None, "its own").unwrap();
    let map = request(Kind::Map as u32, 2 * PAGE as u64, &[1]);
    let its = ask(socket(buffer.handle()), &map).unwrap().unwrap().descriptor.unwrap();
    assert_eq!(supply(waiting(&device), its), Err(Error::NotOwnMemory));
}

fn r7_a_refused_memfd_is_as_it_was_and_another_may_be_sent(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let mut device = Device::open(daemon.connect(), edu()).unwrap();
    let handle = waiting(&device);
    let short = memfd(1, LENGTH);
    assert_eq!(supply(&handle, &short), Err(Error::OutOfBuffer));
    assert_eq!(seals(&short), LENGTH);
    supply(&handle, memfd(2, LENGTH)).unwrap();
    // What cannot be mapped comes back with what is in it.
    device.set_dma_mask(13).unwrap();
    let memory = ForeignMemory::new(16 * PAGE).unwrap();
    memory.write(5, b"kept").unwrap();
    let refused = device.register(memory, Some(Access::Read), "too low").unwrap_err();
    assert_eq!(refused.error, Error::NoAddressSpace);
    let mut found = [0; 4];
    refused.memory.unwrap().read(5, &mut found).unwrap();
    assert_eq!(&found, b"kept");
    let much = ForeignMemory::new(17 << 20).unwrap();
    let refused = device.register(much, None, "too much").unwrap_err();
    assert_eq!((refused.error, refused.memory.unwrap().len()), (Error::TooLarge, 17 << 20));
}

fn registered_memory_can_be_seen_through_its_handle_but_not_written(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = Device::open(daemon.connect(), edu()).unwrap();
    let buffer = register(&device, PAGE);
    let map = |writable| request(Kind::Map as u32, PAGE as u64, &[writable]);
    let written = ask(socket(buffer.handle()), &map(1)).unwrap();
    assert_eq!(written.map(drop), Err(Error::NotPermitted));
    let seen = ask(socket(buffer.handle()), &map(0)).unwrap().unwrap().descriptor.unwrap();
    let mut found = [0; 15];
    rustix::io::pread(&seen, &mut found, 0).unwrap();
    assert_eq!(&found, b"from the driver");
}
