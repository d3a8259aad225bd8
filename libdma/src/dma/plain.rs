//! Physically contiguous memory without an IOMMU.

use core::ptr::{NonNull, null_mut};

use dma_types::PAGE_SIZE;
use libredox::call::{self, MmapArgs};
use libredox::flag::{MAP_PRIVATE, O_CLOEXEC, PROT_READ, PROT_WRITE};
use libredox::{Fd, error};
use syscall::CallFlags;

use super::error::DmaError;

/// Where the memory scheme is entered. It can be opened from the null namespace too (relibc 63599227, `setrens`).
const ROOT: &str = "/scheme/memory/scheme-root";

/// Zeroed, physically contiguous, cached as x86 keeps DMA coherent (kernel 663e6641, `scheme/memory.rs`).
const CONTIGUOUS: &str = "zeroed@wb?phys_contiguous";

/// Tells the physical address of a page of this process.
const TRANSLATION: &str = "translation";

/// The largest piece that the kernel gives: its allocator's largest order, 1024 pages.
const LARGEST: usize = 4 << 20;

/// Contiguous memory of the kernel's, as base takes it. It is given back when dropped.
#[derive(Debug)]
pub(super) struct Plain {
    start: NonNull<u8>,
    length: usize,
    physical: usize,
}

impl Plain {
    /// Zeroes. The kernel gives powers of two, and would lose what lies behind a shorter mapping: all is mapped.
    pub(super) fn allocate(bytes: usize) -> Result<Self, DmaError> {
        if bytes > LARGEST {
            return Err(DmaError::TooLarge(bytes));
        }
        let length = bytes.max(PAGE_SIZE as usize).next_power_of_two();
        let root = Fd::open(ROOT, O_CLOEXEC, 0).map_err(refused)?;
        let memory = root.openat(CONTIGUOUS, O_CLOEXEC, 0).map_err(refused)?;
        let translation = root.openat(TRANSLATION, O_CLOEXEC, 0).map_err(refused)?;
        let arguments = MmapArgs {
            addr: null_mut(),
            length,
            prot: PROT_READ | PROT_WRITE,
            flags: MAP_PRIVATE,
            fd: memory.raw(),
            offset: 0,
        };
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let start = unsafe { call::mmap(arguments) }.map_err(refused)?;
        let start = NonNull::new(start.cast()).ok_or(DmaError::TooLarge(bytes))?;
        let mut plain = Self { start, length, physical: 0 };
        let mut address = start.as_ptr().expose_provenance().to_ne_bytes();
        translation.call_rw(&mut address, CallFlags::empty(), &[]).map_err(refused)?;
        plain.physical = usize::from_ne_bytes(address);
        Ok(plain)
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn physical(&self) -> usize {
        self.physical
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `allocate`, whole, and nothing borrows from it any more. Unmapping a whole
        // mapping cannot fail.
        let _ = unsafe { call::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn refused(error: error::Error) -> DmaError {
    DmaError::MemoryScheme(u16::try_from(error.errno()).unwrap_or(u16::MAX))
}
