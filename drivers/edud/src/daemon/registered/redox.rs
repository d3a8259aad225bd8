//! What iommud must refuse on Redox.

use core::ptr::{NonNull, null_mut};

use dma_types::PAGE_SIZE;
use driver_platform::Error as PlatformError;
use libdma::protocol::Rights;
use libdma::protocol::call::{Hello, Opcode, Welcome};
use libdma::protocol::derive::{Allocate, Copy, Kind, Register};
use libdma::{Buffer, Device, Handle};
use libredox::Fd;
use libredox::call::{self, MmapArgs, dup};
use libredox::error::Result as SystemResult;
use libredox::flag::{MAP_PRIVATE, MAP_SHARED, O_CLOEXEC, O_RDWR, PROT_READ, PROT_WRITE};
use syscall::flag::{ADDRSPACE_OP_MMAP, ADDRSPACE_OP_TRANSFER};
use syscall::{CallFlags, MapFlags};
use zerocopy::little_endian::{U32, U64};

use super::{BYTES, PAGE, Refusal};
use crate::daemon::error::Error;

/// Where the registers of the processors' interrupt controllers are on every PC: memory that is nobody's.
const NOT_RAM: usize = 0xfee0_0000;
/// Where objects have what is put into them here.
const IN_OBJECT: usize = 1 << 32;

unsafe extern "C" {
    /// The descriptor by which the kernel knows the thread that calls. relibc exports it; the value stays
    /// relibc's own, and is valid as long as the thread.
    safe fn redox_cur_thrfd_v0() -> usize;
}

/// What is sent, what iommud is to answer, and what it does.
pub(super) fn refusals(device: &Device, buffer: &Buffer) -> Result<Vec<Refusal>, Error> {
    let refusals = all(device, buffer)
        .map_err(|error| PlatformError::system("cannot make memory to register")(error.into()))?;
    Ok(refusals)
}

fn all(device: &Device, buffer: &Buffer) -> SystemResult<Vec<Refusal>> {
    let clock = Fd::open("/scheme/time/4", O_RDWR | O_CLOEXEC, 0)?;
    let registers = Fd::open("/scheme/memory/physical@uc", O_RDWR | O_CLOEXEC, 0)?;
    let plain = Fd::open("/scheme/memory/zeroed@wb", O_RDWR | O_CLOEXEC, 0)?;
    let lent = buffer.handle().raw().number() as usize;
    let shared = || object_of(lent, 0, MapFlags::MAP_SHARED, BYTES);
    let private = |bytes| object_of(plain.raw(), 0, MapFlags::MAP_PRIVATE, bytes);
    let waiting = || waiting(device);
    let to = |handle: Result<Handle, libdma::Error>, what: Fd| send(&handle?, &what);
    Ok(vec![
        ("a descriptor that is no object", libdma::Error::NotMemory, to(waiting(), clock)),
        ("an object with nothing in it", libdma::Error::OutOfBuffer, to(waiting(), object()?)),
        ("an object with too little", libdma::Error::OutOfBuffer, to(waiting(), private(PAGE)?)),
        (
            "device registers in an object",
            libdma::Error::NotOwnMemory,
            to(waiting(), object_of_registers(&registers)?),
        ),
        ("iommud's own memory in an object", libdma::Error::NotOwnMemory, to(waiting(), shared()?)),
        (
            "memory for a device's handle",
            libdma::Error::WrongHandleKind,
            send(device.handle(), &private(BYTES)?),
        ),
        (
            "memory for a buffer that has some",
            libdma::Error::WrongHandleKind,
            send(buffer.handle(), &private(BYTES)?),
        ),
        (
            "more than may be registered",
            libdma::Error::TooLarge,
            waiting_for(device, 32 << 20).map(drop),
        ),
        (
            "a private copy of a buffer",
            libdma::Error::NotShared,
            map_buffer(buffer.handle(), MAP_PRIVATE),
        ),
        (
            "writing by a handle that may only read",
            libdma::Error::NotPermitted,
            reader(buffer.handle()).and_then(|handle| map_buffer(&handle, MAP_SHARED)),
        ),
    ])
}

/// A handle to the same buffer that may only see it.
fn reader(handle: &Handle) -> Result<Handle, libdma::Error> {
    let rights = (Rights::READ | Rights::INSPECT).bits();
    handle.derive(&Copy { kind: U32::new(Kind::Copy as u32), rights: U32::new(rights) })
}

/// Maps a buffer for reading and writing, and leaves it so if it is not refused.
fn map_buffer(handle: &Handle, sharing: u32) -> Result<(), libdma::Error> {
    map_number(handle.raw().number() as usize, sharing, 0).map(drop).map_err(refused)
}

/// A handle that waits for memory.
fn waiting(device: &Device) -> Result<Handle, libdma::Error> {
    waiting_for(device, BYTES as u64)
}

fn waiting_for(device: &Device, bytes: u64) -> Result<Handle, libdma::Error> {
    let handle = device.handle().derive(&Register {
        kind: U32::new(Kind::Register as u32),
        access: U32::ZERO,
        bytes: U64::new(bytes),
        align: U64::new(PAGE_SIZE),
        limit: U64::new(device.highest_address().get()),
        address: U64::new(IN_OBJECT as u64),
        label: Allocate::label("edud refused"),
    })?;
    let _: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
    Ok(handle)
}

/// Sends a descriptor to a handle, and keeps it, too.
fn send(handle: &Handle, what: &Fd) -> Result<(), libdma::Error> {
    let flags = CallFlags::FD | CallFlags::FD_CLONE | CallFlags::WRITE;
    let number = handle.raw().number() as usize;
    call::call_wo(number, &what.raw().to_ne_bytes(), flags, &[]).map(drop).map_err(refused)
}

/// What iommud answered.
fn refused(error: libredox::error::Error) -> libdma::Error {
    libdma::Error::from_errno(u16::try_from(error.errno()).unwrap_or(u16::MAX))
}

/// An address space in which nobody runs, with nothing in it.
///
/// # Errors
///
/// Those of the kernel.
pub fn object() -> SystemResult<Fd> {
    let own = Fd::new(dup(redox_cur_thrfd_v0(), b"addrspace")?);
    Ok(Fd::new(own.dup(b"empty")?))
}

/// An object with what a descriptor gives.
fn object_of(source: usize, offset: usize, sharing: MapFlags, bytes: usize) -> SystemResult<Fd> {
    let object = object()?;
    let access = MapFlags::PROT_READ | MapFlags::PROT_WRITE | MapFlags::MAP_FIXED_NOREPLACE;
    let flags = (sharing | access).bits();
    let words = [ADDRSPACE_OP_MMAP, source, offset, IN_OBJECT, bytes, flags];
    object.write(words.map(usize::to_ne_bytes).as_flattened())?;
    Ok(object)
}

/// An object with device registers, which the kernel puts into no address space but that of whoever asks: so
/// they are moved.
fn object_of_registers(registers: &Fd) -> SystemResult<Fd> {
    let mapped = map(registers, MAP_SHARED, NOT_RAM)?.cast::<u8>().addr().get();
    let own = Fd::new(dup(redox_cur_thrfd_v0(), b"addrspace")?);
    let object = object()?;
    let access = MapFlags::PROT_READ | MapFlags::PROT_WRITE | MapFlags::MAP_FIXED_NOREPLACE;
    let words = [ADDRSPACE_OP_TRANSFER, own.raw(), mapped, IN_OBJECT, BYTES, access.bits()];
    object.write(words.map(usize::to_ne_bytes).as_flattened())?;
    Ok(object)
}

fn map(source: &Fd, sharing: u32, offset: usize) -> SystemResult<NonNull<[u8]>> {
    map_number(source.raw(), sharing, offset)
}

fn map_number(source: usize, sharing: u32, offset: usize) -> SystemResult<NonNull<[u8]>> {
    let arguments = MmapArgs {
        addr: null_mut(),
        length: BYTES,
        prot: PROT_READ | PROT_WRITE,
        flags: sharing,
        fd: source,
        offset: offset as u64,
    };
    // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
    let start = unsafe { call::mmap(arguments) }?;
    let start = NonNull::new(start.cast()).ok_or(libredox::error::Error::new(syscall::EFAULT))?;
    Ok(NonNull::slice_from_raw_parts(start, BYTES))
}
