//! What iommud must refuse on Linux.

use core::ptr::null_mut;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use dma_types::PAGE_SIZE;
use driver_platform::Error as PlatformError;
use libdma::protocol::call::{Hello, Opcode, Welcome};
use libdma::protocol::derive::{Allocate, Kind, Register};
use libdma::transport::Supply;
use libdma::{Access, Buffer, Device, Error as Refused, ForeignMemory, Handle};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::io::{Errno, Result as SystemResult};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap};

use super::{BYTES, Refusal};
use crate::daemon::error::Error;

/// The length of a huge page, in which all is here.
const HUGE_PAGE: usize = 2 << 20;
/// The seals without which nothing is taken.
const LENGTH: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// What is sent, what iommud is to answer, and what it does.
pub(super) fn refusals(device: &Device, buffer: &Buffer) -> Result<Vec<Refusal>, Error> {
    let mut refusals = all(device, buffer)
        .map_err(|errno| PlatformError::system("cannot make memory to register")(errno.into()))?;
    refusals.extend(holes(device)?);
    Ok(refusals)
}

fn all(device: &Device, buffer: &Buffer) -> SystemResult<Vec<Refusal>> {
    let opened = |path| File::open(path).map(OwnedFd::from).map_err(|_| Errno::NOENT);
    let to_waiting = |what: &OwnedFd| send(&waiting(device)?, what);
    let huge = |seals| memfd(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, HUGE_PAGE, seals);
    let mut refusals = vec![
        ("a device file", Refused::NotMemory, to_waiting(&opened("/dev/null")?)),
        ("physical memory", Refused::NotMemory, to_waiting(&opened("/dev/mem")?)),
        ("a file", Refused::NotMemory, to_waiting(&opened("/proc/self/status")?)),
        ("a memfd that is not sealed", Refused::NotOwnMemory, {
            to_waiting(&huge(SealFlags::empty())?)
        }),
        ("a memfd that can be cut short", Refused::NotOwnMemory, {
            to_waiting(&huge(SealFlags::GROW)?)
        }),
        ("a memfd that may only be read", Refused::NotOwnMemory, {
            to_waiting(&huge(LENGTH | SealFlags::FUTURE_WRITE)?)
        }),
        ("memory for a device's handle", Refused::WrongHandleKind, {
            send(device.handle(), &huge(LENGTH)?)
        }),
        ("memory for a buffer that has some", Refused::WrongHandleKind, {
            send(buffer.handle(), &huge(LENGTH)?)
        }),
    ];
    let empty = memfd(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, 0, LENGTH)?;
    refusals.push(("a memfd of nothing", Refused::OutOfBuffer, to_waiting(&empty)));
    let long = memfd(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, 2 * HUGE_PAGE, LENGTH)?;
    refusals.push(("a memfd with more", Refused::TooLarge, to_waiting(&long)));
    let small = memfd(MemfdFlags::empty(), HUGE_PAGE, LENGTH)?;
    refusals.push(("pages that Linux may move", Refused::MayMove, to_waiting(&small)));
    let once = huge(LENGTH)?;
    let held = waiting(device).and_then(|handle| send(&handle, &once).map(|()| handle));
    refusals.push(("the same memory twice", Refused::NotOwnMemory, to_waiting(&once)));
    drop(held);
    Ok(refusals)
}

/// Takes pages away from memory that the device reaches: it is Linux that refuses that.
fn holes(device: &Device) -> Result<Vec<Refusal>, Error> {
    let system =
        |errno: Errno| PlatformError::system("cannot make memory to register")(errno.into());
    let own =
        memfd(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, HUGE_PAGE, LENGTH).map_err(system)?;
    let clone = own.try_clone().map_err(PlatformError::system("cannot make memory to register"))?;
    // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
    let mapped = unsafe {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        mmap(null_mut(), HUGE_PAGE, access, MapFlags::SHARED, &own, 0)
    }
    .map_err(system)?;
    let memory = ForeignMemory::from_memfd(clone)?;
    let buffer = device.register(memory, Some(Access::ReadWrite), "edud holes");
    let _buffer = buffer.map_err(libdma::Error::from)?;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = fallocate(&own, hole, 0, HUGE_PAGE as u64);
    // SAFETY: nothing but this function looks at the mapping, and any contents are bytes.
    let removed = unsafe { madvise(mapped, HUGE_PAGE, Advice::LinuxRemove) };
    let cut = ftruncate(&own, 0);
    let refused = |result: SystemResult<()>| {
        result.map_err(
            |errno| if errno == Errno::PERM { Refused::NotPermitted } else { errno_of(errno) },
        )
    };
    Ok(vec![
        ("a hole in registered memory", Refused::NotPermitted, refused(punched)),
        ("pages of registered memory removed", Refused::NotPermitted, refused(removed)),
        ("registered memory cut short", Refused::NotPermitted, refused(cut)),
    ])
}

fn errno_of(errno: Errno) -> Refused {
    Refused::Other(errno.raw_os_error() as u16)
}

fn memfd(flags: MemfdFlags, bytes: usize, seals: SealFlags) -> SystemResult<OwnedFd> {
    let memfd = memfd_create("edud", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags)?;
    ftruncate(&memfd, bytes as u64)?;
    fcntl_add_seals(&memfd, seals)?;
    Ok(memfd)
}

/// A handle that waits for memory.
fn waiting(device: &Device) -> Result<Handle, Refused> {
    let handle = device.handle().derive(&Register {
        kind: (Kind::Register as u32).into(),
        access: 0.into(),
        bytes: (BYTES as u64).into(),
        align: PAGE_SIZE.into(),
        limit: device.highest_address().get().into(),
        address: 0.into(),
        label: Allocate::label("edud refused"),
    })?;
    let _: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
    Ok(handle)
}

/// Sends a descriptor to a handle, and keeps it, too.
fn send(handle: &Handle, what: &OwnedFd) -> Result<(), Refused> {
    let object = u64::try_from(what.as_fd().as_raw_fd()).ok();
    let supply = Supply { memory: core::ptr::NonNull::dangling(), bytes: BYTES, object };
    // SAFETY: handle and descriptor are open, and the handle is of this transport. What is taken all the same is never used, through the handle or otherwise.
    unsafe { handle.transport().supply(handle.raw(), &supply) }.map_err(|refused| refused.error)
}
