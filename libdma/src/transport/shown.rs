//! How memory that iommud lends comes into this process: by way of two memory objects.
//!
//! It could be mapped straight. But for what is mapped of a scheme, relibc's `fork` asks that scheme once more, for the
//! child, and makes no child if it is refused (63599227, `redox-rt/src/proc.rs`, `fork_inner`). An iommud that has died answers
//! nothing any more, whoever came after it, and its successor refuses what was revoked. What is mapped of another
//! *address space*, the kernel hands on to the child by itself (663e6641, `context/memory.rs`, `try_clone`).
//!
//! So iommud's memory is mapped in one object, another one borrows it of that, and this process of the other. It takes two:
//! the kernel counts who borrows what a scheme has lent, so that it is not given back meanwhile; it does not count those that a fork
//! makes, and does discount them when they end (`Grant::borrow_grant`, `Grant::unmap`), and stops the machine when it
//! comes below zero. What is borrowed of something borrowed is not counted so.
//!
//! In all three the memory is at the same address, so that nothing is to be remembered of it. iommud learns that it is not
//! mapped any more when it goes from the first object, or with the last process that has it.
//!
//! A child has objects of its own: what it drops that it was born with is not in these, and is its parent's still.

use alloc::boxed::Box;
use core::ptr::NonNull;

use libredox::Fd;
use libredox::call::{self, MmapArgs};
use libredox::flag::{MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE};
use spin::Mutex;
use syscall::MapFlags;
use syscall::flag::{ADDRSPACE_OP_MMAP, ADDRSPACE_OP_MUNMAP};

use super::errand;
use super::object::{empty, error, tell};
use super::scheme::is_there;
use crate::protocol::Error;

/// The objects. They are there as long as the process.
#[derive(Clone, Copy)]
struct Objects {
    /// Whose they are.
    process: u32,
    /// What iommud has lent.
    lent: &'static Fd,
    /// The same, borrowed of that.
    shown: &'static Fd,
}

/// Held by who borrows or ends that: the kernel locks both address spaces, in one order for this and in the other for that
/// (`ProcScheme::kfmap`, `Grant::unmap`). Never held while iommud is asked.
static OBJECTS: Mutex<Option<Objects>> = Mutex::new(None);

/// The kernel enters so much of what is borrowed at once, and looks the rest up when it is touched (`Grant::borrow`): what
/// is longer is borrowed in pieces.
const PIECE: usize = 4096 * PAGE;

const PAGE: usize = dma_types::PAGE_SIZE as usize;

/// Addresses of this process at which there is nothing else, and nothing comes to be.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    bytes: usize,
}

/// Maps the start of what a descriptor of iommud's stands for.
pub(crate) fn map(handle: usize, bytes: usize, writable: bool) -> Result<NonNull<u8>, Error> {
    let (objects, bytes) = (objects()?, whole_pages(bytes)?);
    // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
    let start = unsafe { reserve(0, bytes, MapFlags::empty()) }?;
    let place = Place { start: start.addr().get(), bytes };
    place.show(objects, handle, writable).map(|()| start)
}

/// The same at a place at which there is nothing.
pub(crate) fn map_at(handle: usize, memory: NonNull<u8>, bytes: usize) -> Result<(), Error> {
    let (objects, bytes) = (objects()?, whole_pages(bytes)?);
    let place = Place { start: memory.addr().get(), bytes };
    // SAFETY: this fails if something is there.
    unsafe { reserve(place.start, bytes, MapFlags::MAP_FIXED_NOREPLACE) }?;
    place.show(objects, handle, true)
}

/// Unmaps it.
///
/// # Safety
///
/// It is what [`map`] returned for as many bytes, or what [`map_at`] was told, and is not used any more.
pub(crate) unsafe fn unmap(memory: NonNull<u8>, bytes: usize) {
    if let (Ok(objects), Ok(bytes)) = (objects(), whole_pages(bytes)) {
        Place { start: memory.addr().get(), bytes }.hide(objects);
    }
}

impl Place {
    /// Shows what a descriptor stands for here. If it cannot be, nothing is here afterwards.
    fn show(self, objects: Objects, handle: usize, writable: bool) -> Result<(), Error> {
        let access = if writable { PROT_READ | PROT_WRITE } else { PROT_READ };
        let lent = self.have_lent(objects, handle, access);
        // Who was sent and does not come back may have it lent later: the place stays taken then.
        let shown = lent.ok_or(Error::DaemonGone)?.and_then(|()| self.borrow(objects, access));
        if shown.is_err() {
            self.hide(objects);
        }
        shown
    }

    /// Has iommud lend it. `None` if iommud was gone before it was known whether it has.
    fn have_lent(&self, objects: Objects, handle: usize, access: u32) -> Option<Result<(), Error>> {
        let (Self { start, bytes }, Objects { lent, .. }) = (*self, objects);
        let ask = move || tell(lent, &[ADDRSPACE_OP_MMAP, handle, 0, start, bytes, flags(access)]);
        errand::run(ask, is_there(handle))
    }

    fn borrow(&self, objects: Objects, access: u32) -> Result<(), Error> {
        let (Self { start, bytes }, Objects { lent, shown, .. }) = (*self, objects);
        let _one = OBJECTS.lock();
        for at in (start..start + bytes).step_by(PIECE) {
            let bytes = PIECE.min(start + bytes - at);
            tell(shown, &[ADDRSPACE_OP_MMAP, lent.raw(), at, at, bytes, flags(access)])?;
            let arguments = MmapArgs {
                addr: core::ptr::without_provenance_mut(at),
                length: bytes,
                prot: access,
                flags: MAP_SHARED | MapFlags::MAP_FIXED.bits() as u32,
                fd: shown.raw(),
                offset: at as u64,
            };
            // SAFETY: at these addresses is nothing but what was reserved for this.
            unsafe { call::mmap(arguments) }.map_err(error)?;
        }
        Ok(())
    }

    /// Takes it away. Nobody else has the place before it is gone everywhere.
    fn hide(self, objects: Objects) {
        let (Self { start, bytes }, Objects { lent, shown, .. }) = (self, objects);
        let one = OBJECTS.lock();
        // SAFETY: what is here is nobody's any more.
        let _ = unsafe { reserve(start, bytes, MapFlags::MAP_FIXED) };
        // What is there, or nothing, can always be taken out.
        let _ = tell(shown, &[ADDRSPACE_OP_MUNMAP, start, bytes]);
        drop(one);
        if end_loan(lent, start, bytes) {
            // SAFETY: as above. A whole mapping can always be unmapped.
            let _ = unsafe { call::munmap(core::ptr::without_provenance_mut(start), bytes) };
        }
    }
}

/// Takes out what iommud has lent at this place, if it has, and tells it. Whether whoever does so has come back.
fn end_loan(lent: &'static Fd, start: usize, bytes: usize) -> bool {
    let Ok(handle) = lent.dup(format!("grant-fd-{start:016x}").as_bytes()) else { return true };
    let handle = Fd::new(handle);
    let end = move || tell(lent, &[ADDRSPACE_OP_MUNMAP, start, bytes]);
    errand::run(end, is_there(handle.raw())).is_some()
}

/// Shared, at the given place, at which there is nothing.
fn flags(access: u32) -> usize {
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE;
    (access as usize) << 16 | flags.bits()
}

/// The objects, made when they are first needed.
fn objects() -> Result<Objects, Error> {
    let (objects, process) = (&mut *OBJECTS.lock(), std::process::id());
    if let Some(objects) = objects.filter(|objects| objects.process == process) {
        return Ok(objects);
    }
    let (lent, shown) = (empty()?, empty()?);
    let (lent, shown) = (Box::leak(Box::new(lent)), Box::leak(Box::new(shown)));
    if let Some(parents) = objects.replace(Objects { process, lent, shown }) {
        // Nobody else in this process has used them: of its parent's threads it has the one that made it. What that
        // shows stays here for as long as this process has it.
        for inherited in [parents.lent, parents.shown] {
            let _ = call::close(inherited.raw());
        }
    }
    Ok(Objects { process, lent, shown })
}

/// Keeps a place free, wherever the kernel likes or at `start`.
///
/// # Safety
///
/// As of mapping over what is there, if the flags say so.
unsafe fn reserve(start: usize, bytes: usize, how: MapFlags) -> Result<NonNull<u8>, Error> {
    let arguments = MmapArgs {
        addr: core::ptr::without_provenance_mut(start),
        length: bytes,
        prot: PROT_NONE,
        flags: MAP_PRIVATE | how.bits() as u32,
        // Of no descriptor.
        fd: usize::MAX,
        offset: 0,
    };
    // SAFETY: as the caller promises.
    let start = unsafe { call::mmap(arguments) }.map_err(error)?;
    NonNull::new(start.cast()).ok_or(Error::BadAddress)
}

fn whole_pages(bytes: usize) -> Result<usize, Error> {
    match bytes.checked_next_multiple_of(PAGE) {
        Some(0) => Err(Error::ZeroSize),
        Some(bytes) => Ok(bytes),
        None => Err(Error::OutOfBuffer),
    }
}
