//! The memory scheme: memory that is contiguous in physical memory, where it is, and device registers.
//!
//! What the hardware may reach is in the [memory object](super::object) that the keeper holds, too, and only
//! mapped here. All of it needs uid 0. The scheme's root is opened once, so that the daemon may leave its namespace
//! afterwards.
//!
//! A mapping here is at addresses at which there was nothing, or replaces a [`Place`] that was reserved for it and is
//! nobody else's. That is what makes all of this safe to call. Such a place is never given up for a moment: the kernel
//! (663e6641, `src/scheme/user.rs`: `capture_inner`) maps what comes with a client's request into this process at any
//! time, wherever there is nothing.

use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::AtomicU64;
use std::cell::RefCell;
use std::rc::Rc;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::Segment;
use libredox::Fd;
use libredox::call::{self, MmapArgs};
use libredox::errno::{EEXIST, EINVAL, ENOMEM};
use libredox::error::{Error, Result};
use libredox::flag::{
    MAP_PRIVATE, MAP_SHARED, O_CLOEXEC, O_RDWR, PROT_NONE, PROT_READ, PROT_WRITE,
};
use syscall::{CallFlags, MapFlags};

use super::area::{ANCHOR, Cursor, NOTES, Region};
use super::object::{MemoryObject, move_memory};
use super::plain::Extent;
use crate::platform::pieces::append;

/// The memory scheme, opened, and the object that its memory goes to.
pub struct Memory {
    object: RefCell<Rc<MemoryObject>>,
    cursor: RefCell<Cursor>,
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
    lease: Lease,
}

/// What a chunk has of the object.
struct Lease {
    object: Rc<MemoryObject>,
    /// Where it is in the object.
    address: usize,
    bytes: usize,
}

/// A chunk that a process before this one put into the object.
pub struct Left {
    /// What it is for.
    pub region: Region,
    /// It.
    pub chunk: Chunk,
    /// Where it is in physical memory.
    pub segments: Vec<Segment>,
}

/// What is noted in an object for a successor. It stays there.
pub struct Notes(Place);

impl Notes {
    /// It.
    pub fn words(&self) -> &[AtomicU64] {
        let count = self.0.bytes / size_of::<AtomicU64>();
        // SAFETY: the place is mapped for reading and writing as long as this lives, starts at a page, and is only ever
        // reached through these atomic words.
        unsafe { slice::from_raw_parts(self.0.start.cast().as_ptr(), count) }
    }
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
            object: RefCell::new(Rc::new(object)),
            cursor: RefCell::default(),
            anonymous: open("zeroed@wb")?,
            contiguous: open("zeroed@wb?phys_contiguous")?,
            uncached: open("physical@uc")?,
            translation: open("translation")?,
        })
    }

    /// `bytes` of zeroes that are contiguous in physical memory, and where there. `bytes` must be a power of two
    /// of pages, at most [`LARGEST_PIECE`](crate::platform::pieces::LARGEST_PIECE). `None` when there is no such
    /// memory.
    pub fn contiguous(&self, region: Region, bytes: usize) -> Result<Option<(Chunk, PhysAddr)>> {
        let mut place = self.reserve(bytes)?;
        self.fill(&mut place, region, bytes)
    }

    /// From now on memory goes to another object. What was put into this one stays there.
    pub fn replace_object(&self, object: MemoryObject) {
        self.object.replace(Rc::new(object));
    }

    /// All that a process before this one put into the object, mapped here in the order of addresses: whatever else comes to
    /// be mapped meanwhile, which the kernel puts into holes, is then only ever in one that is behind.
    ///
    /// # Errors
    ///
    /// Those of the kernel; `EINVAL` if something else is in the object. It has all of it still then.
    pub fn inherit(&self) -> Result<Vec<Left>> {
        let object = self.object.borrow().clone();
        let mut extents = object.extents();
        let mut found = Vec::new();
        for Extent { start, bytes, .. } in extents.by_ref() {
            if !ANCHOR.contains(&start) && !NOTES.contains(&start) {
                let (region, place) = Region::of(start, bytes).ok_or(Error::new(EINVAL))?;
                found.push((place, region, bytes));
            }
        }
        if let Some(error) = extents.failure() {
            return Err(error);
        }
        found.sort_unstable();
        let mut all = Vec::new();
        for (start, region, bytes) in found {
            match self.map_left(&object, region, start, bytes) {
                Ok(left) => all.push(left),
                Err(error) => {
                    all.into_iter().for_each(|left: Left| left.chunk.leave());
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    fn map_left(
        &self,
        object: &Rc<MemoryObject>,
        region: Region,
        start: usize,
        bytes: usize,
    ) -> Result<Left> {
        let address = region.object_address(start);
        self.cursor.borrow_mut().pass(start + bytes);
        let place = Place::map_at(start, bytes, object.descriptor(), Kind::Object(address))?;
        let segments = self.translate_all(place.start, bytes)?;
        let lease = Lease { object: object.clone(), address, bytes };
        Ok(Left { region, chunk: Chunk { place, lease }, segments })
    }

    /// What is noted in the object for a successor: zeroes, if nothing is.
    ///
    /// # Errors
    ///
    /// Those of the kernel: there is no memory for it.
    pub fn notes(&self) -> Result<Notes> {
        let object = self.object.borrow();
        match object.add(NOTES.start, NOTES.len(), &self.contiguous) {
            // They are there.
            Err(error) if error.errno() == EEXIST => {}
            result => result?,
        }
        Ok(Notes(Place::map(NOTES.len(), object.descriptor(), Kind::Object(NOTES.start))?))
    }

    /// Where in physical memory mapped pages are.
    pub(super) fn translate_all(&self, start: NonNull<u8>, bytes: usize) -> Result<Vec<Segment>> {
        let mut segments = Vec::new();
        for offset in (0..bytes).step_by(PAGE_SIZE as usize) {
            // SAFETY: the offset lies in what is mapped.
            let page = unsafe { start.add(offset) };
            // The kernel gives a page its frame, and one of its own, when it is touched.
            // SAFETY: the page is mapped for reading, and any byte is a byte.
            let _ = unsafe { page.read_volatile() };
            append(&mut segments, self.translate(page)?, PAGE_SIZE);
        }
        Ok(segments)
    }

    /// How much memory the machine has, in bytes, used or free.
    pub fn total(&self) -> Result<u64> {
        let stat = call::fstatvfs(self.anonymous.raw())?;
        Ok((stat.f_blocks as u64).saturating_mul(stat.f_bsize as u64))
    }

    /// Takes `bytes` of addresses out of use, with no memory behind them that could be reached.
    pub fn reserve(&self, bytes: usize) -> Result<Place> {
        let reserve = |start| Place::map_at(start, bytes, &self.anonymous, Kind::Reserved).ok();
        self.cursor.borrow_mut().find(bytes, reserve).ok_or(Error::new(ENOMEM))
    }

    /// Puts contiguous memory, as [`contiguous`](Self::contiguous) gives it, at the start of a reserved
    /// place, which is the rest of it afterwards. `None` when there is no such memory; then the place is
    /// as it was.
    pub fn fill(
        &self,
        rest: &mut Place,
        region: Region,
        bytes: usize,
    ) -> Result<Option<(Chunk, PhysAddr)>> {
        let front = rest.split_front(bytes)?;
        let object = self.object.borrow().clone();
        let address = region.object_address(front.start.addr().get());
        let Ok(lease) = Lease::take(object, address, bytes, &self.contiguous) else {
            rest.rejoin(front);
            return Ok(None);
        };
        let place = front.replace(&lease)?;
        let physical = self.translate(place.start)?;
        Ok(Some((Chunk { place, lease }, physical)))
    }

    /// Moves memory from another address space, where it is at `from`, to a reserved place.
    ///
    /// # Errors
    ///
    /// Those of the kernel. The memory is where it was then.
    pub(super) fn receive(&self, place: Place, source: &Fd, from: usize) -> Result<Chunk> {
        let bytes = place.bytes;
        let address = Region::Runs.object_address(place.start.addr().get());
        let object = self.object.borrow().clone();
        object.receive(address, bytes, source, from)?;
        let lease = Lease { object, address, bytes };
        match place.replace(&lease) {
            Ok(place) => Ok(Chunk { place, lease }),
            Err(error) => {
                let lease = ManuallyDrop::new(lease);
                move_memory(source, from, bytes, lease.object.descriptor(), address)?;
                Err(error)
            }
        }
    }

    /// Moves a chunk to another address space, to `address`.
    pub(super) fn return_to(&self, chunk: Chunk, target: &Fd, address: usize) -> Result<()> {
        let Chunk { place, lease } = chunk;
        drop(place);
        move_memory(target, address, lease.bytes, lease.object.descriptor(), lease.address)
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
    /// What is at this address of an object.
    Object(usize),
}

impl Chunk {
    /// Where it is in this process.
    pub fn start(&self) -> NonNull<u8> {
        self.place.start
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.lease.bytes
    }

    /// Unmaps it, while the object goes on having it.
    pub fn leave(self) {
        let Self { place, lease } = self;
        drop(place);
        lease.leave();
    }
}

impl Lease {
    fn take(object: Rc<MemoryObject>, address: usize, bytes: usize, source: &Fd) -> Result<Self> {
        object.add(address, bytes, source)?;
        Ok(Self { object, address, bytes })
    }

    /// Gives it up here, while the object goes on having it.
    fn leave(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.bytes != 0 {
            // What the object keeps nevertheless is not given to anybody else.
            let _ = self.object.remove(self.address, self.bytes);
        }
    }
}

impl Place {
    /// Maps memory where the kernel likes.
    fn map(bytes: usize, source: &Fd, kind: Kind) -> Result<Self> {
        Self::map_with(ptr::null_mut(), bytes, source, kind, 0)
    }

    /// Maps memory at this address, where there must be nothing yet.
    fn map_at(start: usize, bytes: usize, source: &Fd, kind: Kind) -> Result<Self> {
        let flags = MapFlags::MAP_FIXED_NOREPLACE.bits() as u32;
        Self::map_with(ptr::without_provenance_mut(start), bytes, source, kind, flags)
    }

    fn map_with(
        addr: *mut (),
        length: usize,
        source: &Fd,
        kind: Kind,
        placing: u32,
    ) -> Result<Self> {
        let (prot, flags, offset) = match kind {
            Kind::Reserved => (PROT_NONE, MAP_PRIVATE, 0),
            Kind::Registers(base) => (PROT_READ | PROT_WRITE, MAP_SHARED, base.get()),
            Kind::Object(address) => (PROT_READ | PROT_WRITE, MAP_SHARED, address as u64),
        };
        let flags = flags | placing;
        let arguments = MmapArgs { addr, length, prot, flags, fd: source.raw(), offset };
        // SAFETY: it is mapped where there is nothing, so that no memory is taken from anybody.
        let mapped = unsafe { call::mmap(arguments) }?;
        let start = NonNull::new(mapped.cast()).ok_or(Error::new(EINVAL))?;
        Ok(Self { start, bytes: length })
    }

    /// Maps what an object has in the place of this.
    fn replace(self, lease: &Lease) -> Result<Self> {
        let arguments = MmapArgs {
            addr: self.start.as_ptr().cast(),
            length: self.bytes,
            prot: PROT_READ | PROT_WRITE,
            flags: MAP_SHARED | MapFlags::MAP_FIXED.bits() as u32,
            fd: lease.object.descriptor().raw(),
            offset: lease.address as u64,
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
