//! A file's pages in this process, read and written as registers are.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::failure::{Outcome, require};

/// A shared mapping. Unmapped when dropped.
pub(crate) struct Map {
    start: *mut u8,
    bytes: usize,
}

impl Map {
    /// Maps part of a file, uncached where the file is a device's memory. `offset` is a multiple of 4096.
    pub(crate) fn of_file(path: &Path, offset: u64, bytes: usize) -> Outcome<Self> {
        let sync = OFlags::SYNC.bits().cast_signed();
        let file = OpenOptions::new().read(true).write(true).custom_flags(sync).open(path)?;
        Self::of(file, offset, bytes)
    }

    /// Maps part of an open file.
    pub(crate) fn of(file: impl AsFd, offset: u64, bytes: usize) -> Outcome<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses a place where nothing is mapped, and nothing refers to it but the
        // pointer that is kept here.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, flags, file, offset)? };
        Ok(Self { start: start.cast(), bytes })
    }

    /// Where it is in this process.
    pub(crate) fn address(&self) -> usize {
        self.start.addr()
    }

    /// Reads 32 bits in one access.
    pub(crate) fn read32(&self, offset: usize) -> Outcome<u32> {
        // SAFETY: `at` checks that the word is inside the mapping and aligned; atomics allow others
        // to write it.
        Ok(unsafe { AtomicU32::from_ptr(self.at::<u32>(offset)?) }.load(Ordering::Relaxed))
    }

    /// Writes 32 bits in one access.
    pub(crate) fn write32(&self, offset: usize, value: u32) -> Outcome {
        // SAFETY: as in `read32`.
        unsafe { AtomicU32::from_ptr(self.at::<u32>(offset)?) }.store(value, Ordering::Relaxed);
        Ok(())
    }

    /// Reads 64 bits in one access.
    pub(crate) fn read64(&self, offset: usize) -> Outcome<u64> {
        // SAFETY: as in `read32`.
        Ok(unsafe { AtomicU64::from_ptr(self.at::<u64>(offset)?) }.load(Ordering::Relaxed))
    }

    /// Writes 64 bits in one access.
    pub(crate) fn write64(&self, offset: usize, value: u64) -> Outcome {
        // SAFETY: as in `read32`.
        unsafe { AtomicU64::from_ptr(self.at::<u64>(offset)?) }.store(value, Ordering::Relaxed);
        Ok(())
    }

    fn at<Word>(&self, offset: usize) -> Outcome<*mut Word> {
        let size = size_of::<Word>();
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.bytes);
        require!(inside && offset.is_multiple_of(size), "no word at {offset:#x} in the mapping");
        // SAFETY: inside the mapping.
        Ok(unsafe { self.start.add(offset) }.cast())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping beyond one access.
        let unmapped = unsafe { munmap(self.start.cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
