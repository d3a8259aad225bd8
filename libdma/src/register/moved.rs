//! How a range is moved out of this process and back, on Redox.
//!
//! The range is moved out of this process into a memory object (an address space in which nobody runs), the object is
//! sent to iommud, which takes the memory as its own, and the range is then a mapping of the buffer. So iommud never
//! learns of anything of this process but that range, and when the process dies, the memory stays until
//! the device can reach it no more. From when it is moved until it is mapped again, nothing is there.

use core::ptr::NonNull;

use libredox::Fd;
use libredox::call;
use syscall::flag::{ADDRSPACE_OP_MPROTECT, ADDRSPACE_OP_TRANSFER};
use syscall::{CallFlags, MapFlags};

use crate::protocol::Error;
use crate::transport::object::{empty, error, own, tell};
use crate::transport::{NotSupplied, shown};

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

/// Sends a range to a handle that waits for it, and maps it again at the same place.
///
/// # Safety
///
/// As for [`Transport::supply`](crate::transport::Transport::supply).
pub(crate) unsafe fn supply(
    handle: usize,
    memory: NonNull<u8>,
    bytes: usize,
) -> Result<(), NotSupplied> {
    let lent = Lent::new(memory.addr().get(), bytes)?;
    // The object stays here, too, until it is known whether it was taken.
    let flags = CallFlags::FD | CallFlags::FD_CLONE | CallFlags::WRITE;
    let object = lent.object.raw().to_ne_bytes();
    if let Err(refused) = call::call_wo(handle, &object, flags, &[]) {
        return Err(NotSupplied { error: error(refused), is_gone: lent.take_back().is_err() });
    }
    drop(lent);
    shown::map_at(handle, memory, bytes).map_err(|error| NotSupplied { error, is_gone: true })
}

/// An address in an object for memory that comes from `start`: the kernel does not move between ranges that overlap as
/// numbers.
pub(crate) fn in_object(start: usize, bytes: usize) -> Result<usize, Error> {
    let apart =
        start >= IN_OBJECT + bytes || start.checked_add(bytes).is_some_and(|end| end <= IN_OBJECT);
    if apart { Ok(IN_OBJECT) } else { start.checked_add(bytes).ok_or(Error::Overflow) }
}

impl Lent {
    /// Moves memory of this process into an object.
    fn new(start: usize, bytes: usize) -> Result<Self, NotSupplied> {
        let (own, object) = (own()?, empty()?);
        let at = in_object(start, bytes)?;
        let lent = Self { own, object, start, bytes, at };
        match shift(&lent.object, at, bytes, &lent.own, start) {
            Ok(()) => Ok(lent),
            // It is where it was, or it was moved and cannot be written there.
            Err(Unmoved { error, is_moved: false }) => Err(error.into()),
            Err(Unmoved { error, is_moved: true }) => {
                Err(NotSupplied { error, is_gone: lent.take_back().is_err() })
            }
        }
    }

    /// Moves it back.
    fn take_back(self) -> Result<(), Unmoved> {
        shift(&self.own, self.start, self.bytes, &self.object, self.at)
    }
}

/// Why memory was not moved as it should be.
struct Unmoved {
    error: Error,
    /// Whether it is at its new place, where it can only be read.
    is_moved: bool,
}

/// Moves memory between address spaces.
fn shift(target: &Fd, to: usize, bytes: usize, source: &Fd, from: usize) -> Result<(), Unmoved> {
    // First for reading alone: for writing, the kernel would let pages be written to that others own as well, as
    // after a fork.
    let readable = MapFlags::PROT_READ | MapFlags::MAP_FIXED_NOREPLACE;
    tell(target, &[ADDRSPACE_OP_TRANSFER, source.raw(), from, to, bytes, readable.bits()])
        .map_err(|error| Unmoved { error, is_moved: false })?;
    let writable = MapFlags::PROT_READ | MapFlags::PROT_WRITE;
    tell(target, &[ADDRSPACE_OP_MPROTECT, to, bytes, writable.bits()])
        .map_err(|error| Unmoved { error, is_moved: true })
}
