//! A memfd of huge pages, mapped, and where it is in physical memory. The keeper has it, too.

use core::ptr::{self, NonNull};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dma_types::{CpuAddr, PhysAddr};
use rustix::fs::{
    MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, fstat, ftruncate, memfd_create,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::keeper::{Kept, Source};
use super::pagemap::PageMap;
use super::parcel::{Piece, Purpose, Shown};

/// The length of a huge page.
pub const HUGE_PAGE: u64 = 2 << 20;

/// Zeroes in huge pages, mapped for as long as this lives. The length is sealed: a process that gets the
/// descriptor cannot change it.
#[derive(Debug)]
pub struct HugePages {
    mapping: Mapping,
    fd: OwnedFd,
    /// Where each page is.
    physical: Vec<PhysAddr>,
    /// The last to go.
    kept: Kept,
}

/// Whole huge pages of a memfd, mapped and all there.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    /// A multiple of [`HUGE_PAGE`].
    bytes: usize,
}

impl HugePages {
    /// At least `bytes` bytes, in whole pages. An error when the kernel has not as many to give.
    pub fn new(purpose: Purpose, bytes: u64, source: &Source) -> io::Result<Self> {
        let bytes = bytes
            .checked_next_multiple_of(HUGE_PAGE)
            .filter(|&bytes| bytes != 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let huge = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let name = if purpose == Purpose::Tables { "iommud-tables" } else { "iommud-run" };
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | huge)?;
        ftruncate(&fd, bytes)?;
        // A memfd is made for everybody to write (Linux, mm/shmem.c), and a descriptor that only reads can be opened anew
        // through /proc by whoever has it: with what the file's mode allows.
        fchmod(&fd, Mode::RUSR)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mapping = Mapping::of(&fd, bytes)?;
        let physical = mapping.physical(&source.map)?;
        // Nobody is told of it before the keeper has it.
        let kept = source.keeper.keep(purpose, bytes, fd.as_fd())?;
        Ok(Self { mapping, fd, physical, kept })
    }

    /// Pages that a process before this one made, with what is in them.
    pub fn inherited(piece: Piece, source: &Source) -> io::Result<Self> {
        let Piece { number, bytes, memory: fd, .. } = piece;
        let kept = source.keeper.kept(number);
        let length = fstat(&fd).ok().and_then(|it| u64::try_from(it.st_size).ok());
        let is_whole = length == Some(bytes) && bytes.is_multiple_of(HUGE_PAGE) && bytes != 0;
        let mapping = match is_whole {
            true => Mapping::of(&fd, bytes),
            false => Err(io::ErrorKind::InvalidData.into()),
        };
        let physical = mapping.and_then(|it| Ok((it.physical(&source.map)?, it)));
        match physical {
            Ok((physical, mapping)) => Ok(Self { mapping, fd, physical, kept }),
            Err(error) => {
                // Whoever may reach it, this process does not adopt it.
                kept.leave();
                Err(error)
            }
        }
    }

    /// The number by which the keeper knows it.
    pub fn number(&self) -> u64 {
        self.kept.number()
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.mapping.bytes as u64
    }

    /// What a keeper is shown of it.
    pub fn shown(&self, purpose: Purpose) -> Shown<'_> {
        Shown { purpose, number: self.number(), bytes: self.bytes(), memory: self.fd() }
    }

    /// Gives it up here, while the keeper goes on having it.
    pub fn leave(self) {
        self.kept.leave();
    }

    /// Where this process sees it, for access through atomics alone.
    pub fn start(&self) -> NonNull<u8> {
        self.mapping.start
    }

    /// Where each page is in physical memory, in order.
    pub fn physical(&self) -> &[PhysAddr] {
        &self.physical
    }

    /// The descriptor, to be passed to a client.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Mapping {
    /// Maps a memfd of this length, which is sealed, with all its pages.
    fn of(fd: &OwnedFd, bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // Mapping sets all the pages aside, or fails, so that none can be missing later; populating takes
        // them, so that they are somewhere.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody. The file is
        // as long as the mapping and sealed to stay so.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, flags, fd, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }

    /// Where each page is.
    fn physical(&self, map: &PageMap) -> io::Result<Vec<PhysAddr>> {
        let start = CpuAddr::from(self.start).get();
        let pages = (0..self.bytes as u64).step_by(HUGE_PAGE as usize);
        pages.map(|offset| map.translate(CpuAddr::new(start + offset))).collect()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `of` with this start and length, and whoever took its start must
        // not use it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
