//! Memory that the driver has already, made a buffer.
//!
//! A buffer is usually allocated by iommud. Memory that exists already, with something in it, can be *registered*
//! instead: it becomes a buffer at the same address in this process, with what is in it, and the device sees the same
//! memory. It is for large memory that is there for long; to copy a few pages costs less.
//!
//! # What happens to it
//!
//! The range is moved out of this process into a memory object (an address space in which nobody runs), the object is
//! sent to iommud, which takes the memory as its own, and the range is then a mapping of the buffer. So iommud never
//! learns of anything of this process but that range, and when the process dies, the memory stays until
//! the device can reach it no more. From when it is moved until it is mapped again, nothing is there.
//!
//! The memory is iommud's from then on. When the buffer is dropped, the range is gone: what is to be kept is
//! copied out before.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use dma_types::{Access, PAGE_SIZE};
use libredox::Fd;
use libredox::call::{self, MmapArgs, dup};
use libredox::flag::{MAP_SHARED, PROT_READ, PROT_WRITE};
use syscall::flag::{ADDRSPACE_OP_MPROTECT, ADDRSPACE_OP_TRANSFER};
use syscall::{CallFlags, MapFlags};
use zerocopy::little_endian::{U32, U64};

use crate::buffer::Buffer;
use crate::device::Device;
use crate::handle::Handle;
use crate::protocol::Error;
use crate::protocol::call::{Hello, Opcode, Welcome, access_code};
use crate::protocol::derive::{self, Allocate, Register};
use crate::transport::Mapping;
use crate::unmapped::UnmappedBuffer;

unsafe extern "C" {
    /// The descriptor by which the kernel knows the thread that calls. relibc exports it; the value stays
    /// relibc's own, and is valid as long as the thread.
    safe fn redox_cur_thrfd_v0() -> usize;
}

/// Where in the object the memory is, unless it comes from there.
const IN_OBJECT: usize = 1 << 32;

/// Memory of this process, which is in an object instead while this lives.
struct Lent {
    /// This process.
    own: Fd,
    object: Fd,
    start: usize,
    bytes: usize,
    /// Where in the object.
    at: usize,
}

/// Makes a buffer of memory that this process has, mapped for the device if `access` says how.
///
/// # Safety
///
/// The range is this process's own, from a private anonymous mapping (not of an allocator that will use it again), it is
/// not used by anything while this runs, by no other thread either, and from then on only through the buffer: no reference
/// to any of it is used again. No other thread maps anything while this runs, for it could get the place while it is
/// empty. It is unmapped when the buffer is dropped. The device's handle is of the
/// transport [`Scheme`](crate::transport::scheme::Scheme).
///
/// # Errors
///
/// [`Error::BadAlignment`] if it is not whole pages, [`Error::TooLarge`] above
/// [`MAX_REGISTER_BYTES`](derive::MAX_REGISTER_BYTES), [`Error::NotOwnMemory`] for memory that is not plain,
/// [`Error::OutOfBuffer`] if some of it is not mapped, and those of [`Device::allocate`]. The memory is then where it
/// was; only if the place was taken meanwhile, which [`Error::AlreadyMapped`] says, it is lost.
pub unsafe fn register(
    device: &Device,
    memory: NonNull<[u8]>,
    access: Option<Access>,
    label: &str,
) -> Result<Buffer, Error> {
    let (start, bytes) = (memory.cast::<u8>().addr().get(), memory.len());
    if bytes == 0 {
        return Err(Error::ZeroSize);
    }
    if start % PAGE_SIZE as usize != 0 || bytes % PAGE_SIZE as usize != 0 {
        return Err(Error::BadAlignment);
    }
    let handle = waiting(device, in_object(start, bytes)?, bytes, access, label)?;
    let lent = Lent::new(start, bytes)?;
    // The object stays here, too, until it is known whether it was taken.
    let flags = CallFlags::FD | CallFlags::FD_CLONE | CallFlags::WRITE;
    let object = lent.object.raw().to_ne_bytes();
    let number = handle.raw().number() as usize;
    call::call_wo(number, &object, flags, &[]).map_err(error)?;
    lent.taken();
    let arguments = MmapArgs {
        addr: memory.as_ptr().cast(),
        length: bytes,
        prot: PROT_READ | PROT_WRITE,
        flags: MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE.bits() as u32,
        fd: number,
        offset: 0,
    };
    // SAFETY: nothing is at this address, or else this fails.
    unsafe { call::mmap(arguments) }.map_err(error)?;
    let mapping = Mapping { memory: memory.cast(), length: bytes };
    let buffer = UnmappedBuffer::greeted(handle, device.session().clone())?;
    // SAFETY: it is the memory of this buffer, just mapped.
    Ok(unsafe { Buffer::from_parts(buffer, mapping) })
}

/// A handle that waits for the memory.
fn waiting(
    device: &Device,
    at: usize,
    bytes: usize,
    access: Option<Access>,
    label: &str,
) -> Result<Handle, Error> {
    let handle = device.handle().derive(&Register {
        kind: U32::new(derive::Kind::Register as u32),
        access: U32::new(access.map_or(0, access_code)),
        bytes: U64::new(bytes as u64),
        align: U64::new(PAGE_SIZE),
        limit: U64::new(device.limit().get()),
        address: U64::new(at as u64),
        label: Allocate::label(label),
    })?;
    let _: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
    Ok(handle)
}

/// An address in an object for memory that comes from `start`: the kernel does not move between ranges that overlap as
/// numbers.
fn in_object(start: usize, bytes: usize) -> Result<usize, Error> {
    let apart =
        start >= IN_OBJECT + bytes || start.checked_add(bytes).is_some_and(|end| end <= IN_OBJECT);
    if apart { Ok(IN_OBJECT) } else { start.checked_add(bytes).ok_or(Error::Overflow) }
}

impl Lent {
    /// Moves memory of this process into an object.
    fn new(start: usize, bytes: usize) -> Result<Self, Error> {
        let open = || {
            let own = Fd::new(dup(redox_cur_thrfd_v0(), b"addrspace")?);
            let object = Fd::new(own.dup(b"empty")?);
            Ok((own, object))
        };
        let (own, object) = open().map_err(error)?;
        let at = in_object(start, bytes)?;
        shift(&object, at, bytes, &own, start)?;
        Ok(Self { own, object, start, bytes, at })
    }

    /// The memory is no more in the object.
    fn taken(self) {
        let Self { own, object, .. } = &*ManuallyDrop::new(self);
        for descriptor in [own, object] {
            // Both are this value's, and nobody uses them any more.
            let _ = call::close(descriptor.raw());
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // What cannot be moved back is lost, and whoever touches it is stopped for that.
        let _ = shift(&self.own, self.start, self.bytes, &self.object, self.at);
    }
}

/// Moves memory between address spaces.
fn shift(target: &Fd, to: usize, bytes: usize, source: &Fd, from: usize) -> Result<(), Error> {
    // First for reading alone: for writing, the kernel would let pages be written to that others own as well, as
    // after a fork.
    let readable = MapFlags::PROT_READ | MapFlags::MAP_FIXED_NOREPLACE;
    tell(target, &[ADDRSPACE_OP_TRANSFER, source.raw(), from, to, bytes, readable.bits()])?;
    let writable = MapFlags::PROT_READ | MapFlags::PROT_WRITE;
    tell(target, &[ADDRSPACE_OP_MPROTECT, to, bytes, writable.bits()])
}

fn tell<const WORDS: usize>(space: &Fd, words: &[usize; WORDS]) -> Result<(), Error> {
    let bytes = words.map(usize::to_ne_bytes);
    space.write(bytes.as_flattened()).map(drop).map_err(error)
}

/// What iommud or the kernel answered.
fn error(error: libredox::error::Error) -> Error {
    Error::from_errno(u16::try_from(error.errno()).unwrap_or(u16::MAX))
}
