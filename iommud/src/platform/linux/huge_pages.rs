//! A memfd of huge pages, mapped, and where it is in physical memory.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, Ordering};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dma_types::{CpuAddr, PhysAddr};
use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::pagemap::PageMap;

/// The length of a huge page.
pub const HUGE_PAGE: u64 = 2 << 20;

/// Zeroes in huge pages, mapped for as long as this lives. The length is sealed: a process that gets the
/// descriptor cannot change it.
#[derive(Debug)]
pub struct HugePages {
    fd: OwnedFd,
    start: NonNull<u8>,
    /// A multiple of [`HUGE_PAGE`].
    bytes: usize,
    /// Where each page is.
    physical: Vec<PhysAddr>,
}

impl HugePages {
    /// At least `bytes` bytes, in whole pages. An error when the kernel has not as many to give.
    pub fn new(name: &str, bytes: u64, map: &PageMap) -> io::Result<Self> {
        let bytes = bytes
            .checked_next_multiple_of(HUGE_PAGE)
            .filter(|&bytes| bytes != 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let huge = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | huge)?;
        ftruncate(&fd, bytes)?;
        // A memfd is made for everybody to write (Linux, mm/shmem.c), and a descriptor that only reads can be opened anew
        // through /proc by whoever has it: with what the file's mode allows.
        fchmod(&fd, Mode::RUSR)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // Mapping sets all the pages aside, or fails, so that none can be missing later; populating takes
        // them, so that they are somewhere.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody. The file is
        // as long as the mapping and sealed to stay so.
        let start = unsafe { mmap(ptr::null_mut(), length, access, flags, &fd, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut pages = Self { fd, start, bytes: length, physical: Vec::new() };
        pages.physical = (0..bytes / HUGE_PAGE)
            .map(|page| map.translate(CpuAddr::new(pages.address().get() + page * HUGE_PAGE)))
            .collect::<io::Result<_>>()?;
        Ok(pages)
    }

    /// Where this process sees it.
    fn address(&self) -> CpuAddr {
        self.start.into()
    }

    /// Fills it with zeroes: somebody may have had it before (rule R8).
    pub fn clear(&self) {
        let words = self.start.cast::<AtomicU64>();
        for index in 0..self.bytes / size_of::<u64>() {
            // SAFETY: the mapping is as long and lives as long as this, is aligned to pages, and here it is only ever
            // reached through atomics.
            unsafe { words.add(index).as_ref() }.store(0, Ordering::Relaxed);
        }
    }

    /// Where this process sees it, for access through atomics alone.
    pub fn start(&self) -> NonNull<u8> {
        self.start
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

impl Drop for HugePages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this start and length, and whoever took its start must
        // not use it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
