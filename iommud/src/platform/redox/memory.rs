//! The memory scheme: memory that is contiguous in physical memory, where it is, and device registers.
//!
//! What the hardware may reach is in the [memory object](super::object) that the keeper holds, too, and only
//! mapped here. All of it needs uid 0. The scheme's root is opened once, so that the daemon may leave its namespace
//! afterwards.
//!
//! A mapping here is at addresses that the kernel chooses, or replaces a [`Place`] that was reserved for it and is
//! nobody else's. That is what makes all of this safe to call. Such a place is never given up for a moment: the kernel
//! (663e6641, `src/scheme/user.rs`: `capture_inner`) maps what comes with a client's request into this process at any
//! time, wherever there is nothing.

use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};
use std::rc::Rc;

use dma_types::PhysAddr;
use libredox::Fd;
use libredox::call::{self, MmapArgs};
use libredox::errno::EINVAL;
use libredox::error::{Error, Result};
use libredox::flag::{
    MAP_PRIVATE, MAP_SHARED, O_CLOEXEC, O_RDWR, PROT_NONE, PROT_READ, PROT_WRITE,
};
use syscall::{CallFlags, MapFlags};

use super::object::{MemoryObject, move_memory};

/// The memory scheme, opened, and the object that its memory goes to.
pub struct Memory {
    object: Rc<MemoryObject>,
    /// Zeroed, given when first touched; here only ever mapped without any access, to keep a place.
    anonymous: Fd,
    /// Zeroed, contiguous, write-back: x86 keeps it coherent with devices.
    contiguous: Fd,
    /// Physical memory that is no RAM, uncached.
    uncached: Fd,
    /// Answers where in physical memory a page of this process is.
    translation: Fd,
}

/// Contiguous memory: given back when dropped, as far as nobody else sees it.
pub struct Chunk {
    /// Where it is in this process. Unmapped first: what is still mapped is not given back.
    place: Place,
    _lease: Lease,
}

/// What a chunk has of the object.
struct Lease {
    object: Rc<MemoryObject>,
    start: NonNull<u8>,
    bytes: usize,
}

/// A range of this process's addresses, unmapped when dropped.
#[derive(Debug)]
pub struct Place {
    start: NonNull<u8>,
    bytes: usize,
}

impl Memory {
    /// Opens the scheme. Contiguous memory goes to this object.
    pub fn open(object: MemoryObject) -> Result<Self> {
        let root = Fd::open("/scheme/memory/scheme-root", O_CLOEXEC, 0)?;
        let open = |path| root.openat(path, O_CLOEXEC | O_RDWR, 0);
        Ok(Self {
            object: Rc::new(object),
            anonymous: open("zeroed@wb")?,
            contiguous: open("zeroed@wb?phys_contiguous")?,
            uncached: open("physical@uc")?,
            translation: open("translation")?,
        })
    }

    /// `bytes` of zeroes that are contiguous in physical memory, and where there. `bytes` must be a power of two
    /// of pages, at most [`LARGEST_PIECE`](crate::platform::pieces::LARGEST_PIECE). `None` when there is no such
    /// memory.
    pub fn contiguous(&self, bytes: usize) -> Result<Option<(Chunk, PhysAddr)>> {
        let mut place = self.reserve(bytes)?;
        self.fill(&mut place, bytes)
    }

    /// How much memory the machine has, in bytes, used or free.
    pub fn total(&self) -> Result<u64> {
        let stat = call::fstatvfs(self.anonymous.raw())?;
        Ok((stat.f_blocks as u64).saturating_mul(stat.f_bsize as u64))
    }

    /// Takes `bytes` of addresses out of use, with no memory behind them that could be reached.
    pub fn reserve(&self, bytes: usize) -> Result<Place> {
        Place::map(bytes, &self.anonymous, Kind::Reserved)
    }

    /// Puts contiguous memory, as [`contiguous`](Self::contiguous) gives it, at the start of a reserved
    /// place, which is the rest of it afterwards. `None` when there is no such memory; then the place is
    /// as it was.
    pub fn fill(&self, rest: &mut Place, bytes: usize) -> Result<Option<(Chunk, PhysAddr)>> {
        let front = rest.split_front(bytes)?;
        let Ok(lease) = Lease::take(&self.object, front.start, bytes, &self.contiguous) else {
            rest.rejoin(front);
            return Ok(None);
        };
        let place = front.replace(self.object.descriptor())?;
        let physical = self.translate(place.start)?;
        Ok(Some((Chunk { place, _lease: lease }, physical)))
    }

    /// Moves memory from another address space, where it is at `from`, to a reserved place.
    ///
    /// # Errors
    ///
    /// Those of the kernel. The memory is where it was then.
    pub(super) fn receive(&self, place: Place, source: &Fd, from: usize) -> Result<Chunk> {
        let (start, bytes) = (place.start, place.bytes);
        let address = start.addr().get();
        self.object.receive(address, bytes, source, from)?;
        match place.replace(self.object.descriptor()) {
            Ok(place) => {
                let lease = Lease { object: self.object.clone(), start, bytes };
                Ok(Chunk { place, _lease: lease })
            }
            Err(error) => {
                move_memory(source, from, bytes, self.object.descriptor(), address)?;
                Err(error)
            }
        }
    }

    /// Moves a chunk to another address space, to `address`.
    pub(super) fn return_to(&self, chunk: Chunk, target: &Fd, address: usize) -> Result<()> {
        let Chunk { place, _lease: lease } = chunk;
        drop(place);
        let from = lease.start.addr().get();
        move_memory(target, address, lease.bytes, self.object.descriptor(), from)
    }

    /// Maps device registers, uncached. `base` and `bytes` must be multiples of the page size. The kernel
    /// refuses what is RAM.
    pub fn registers(&self, base: PhysAddr, bytes: usize) -> Result<Place> {
        Place::map(bytes, &self.uncached, Kind::Registers(base))
    }

    /// Where in physical memory the page at this address is.
    pub(super) fn translate(&self, page: NonNull<u8>) -> Result<PhysAddr> {
        let mut word = page.as_ptr().expose_provenance().to_ne_bytes();
        self.translation.call_rw(&mut word, CallFlags::empty(), &[])?;
        Ok(PhysAddr::new(usize::from_ne_bytes(word) as u64))
    }
}

/// What a place is for.
#[derive(Clone, Copy)]
enum Kind {
    Reserved,
    Registers(PhysAddr),
}

impl Chunk {
    /// Where it is in this process.
    pub fn start(&self) -> NonNull<u8> {
        self.place.start
    }
}

impl Lease {
    fn take(
        object: &Rc<MemoryObject>,
        start: NonNull<u8>,
        bytes: usize,
        source: &Fd,
    ) -> Result<Self> {
        object.add(start, bytes, source)?;
        Ok(Self { object: object.clone(), start, bytes })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What the object keeps nevertheless is not given to anybody else.
        let _ = self.object.remove(self.start, self.bytes);
    }
}

impl Place {
    /// Maps memory where the kernel likes.
    fn map(bytes: usize, source: &Fd, kind: Kind) -> Result<Self> {
        let (prot, flags, offset) = match kind {
            Kind::Reserved => (PROT_NONE, MAP_PRIVATE, 0),
            Kind::Registers(base) => (PROT_READ | PROT_WRITE, MAP_SHARED, base.get()),
        };
        let (addr, fd) = (ptr::null_mut(), source.raw());
        let arguments = MmapArgs { addr, length: bytes, prot, flags, fd, offset };
        // SAFETY: the kernel chooses addresses that nothing uses, so that no memory is taken from anybody.
        let mapped = unsafe { call::mmap(arguments) }?;
        let start = NonNull::new(mapped.cast()).ok_or(Error::new(EINVAL))?;
        Ok(Self { start, bytes })
    }

    /// Maps what an object has at the same addresses in the place of this.
    fn replace(self, object: &Fd) -> Result<Self> {
        let arguments = MmapArgs {
            addr: self.start.as_ptr().cast(),
            length: self.bytes,
            prot: PROT_READ | PROT_WRITE,
            flags: MAP_SHARED | MapFlags::MAP_FIXED.bits() as u32,
            fd: object.raw(),
            offset: self.start.addr().get() as u64,
        };
        // Whether this place is still mapped after a failure nobody knows: then it is never used again.
        let place = ManuallyDrop::new(self);
        // SAFETY: what is mapped at these addresses is this place, which is consumed: nobody uses what was there.
        unsafe { call::mmap(arguments) }?;
        Ok(ManuallyDrop::into_inner(place))
    }

    /// Where it starts: a multiple of the page size.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the first `bytes` out as a place of their own.
    fn split_front(&mut self, bytes: usize) -> Result<Self> {
        let rest = self.bytes.checked_sub(bytes).ok_or(Error::new(EINVAL))?;
        let front = Self { start: self.start, bytes };
        // SAFETY: `bytes` is at most the length of this place, which is one range of addresses.
        self.start = unsafe { self.start.add(bytes) };
        self.bytes = rest;
        Ok(front)
    }

    /// Puts the front back that [`split_front`](Self::split_front) took out.
    fn rejoin(&mut self, front: Self) {
        debug_assert_eq!(front.start.addr().get() + front.bytes, self.start.addr().get());
        self.start = front.start;
        self.bytes += front.bytes;
        core::mem::forget(front);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.bytes != 0 {
            // SAFETY: the range was mapped as this place and is no other's; whoever took its start must not
            // use it after the place is gone. A failure leaves it mapped, which harms nobody.
            let _ = unsafe { call::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}
