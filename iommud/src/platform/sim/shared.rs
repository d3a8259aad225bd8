//! A memfd, mapped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::platform::sealed::SealedMemory;

/// Memory that other processes can share: a memfd of fixed length, mapped here for as long as this lives. Or a
/// driver's.
#[derive(Debug)]
pub struct SharedMemory {
    words: NonNull<AtomicU64>,
    length: usize,
    object: Object,
}

/// What it is of.
#[derive(Debug)]
enum Object {
    /// A memfd of the platform's own.
    Own(OwnedFd),
    /// A client's.
    Clients(SealedMemory),
    /// None: a driver in this process has it.
    Drivers,
}

// SAFETY: the words are only ever reached as atomics, which any thread may do; the descriptor is `Send` and
// `Sync` of itself.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// `bytes` of zeroes (a multiple of 4096, not zero). Pages take up memory once they are touched. The length is
    /// sealed: a process that gets the descriptor cannot change it.
    pub fn new(name: &str, bytes: u64) -> io::Result<Self> {
        let size = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, bytes)?;
        // A memfd is made for everybody to write (Linux, mm/shmem.c), and a descriptor that only reads can be opened anew
        // through /proc by whoever has it: with what the file's mode allows.
        fchmod(&fd, Mode::RUSR)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody. The file is
        // as long as the mapping and sealed to stay so.
        let start = unsafe { mmap(ptr::null_mut(), size, access, MapFlags::SHARED, &fd, 0) }?;
        let words = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { words, length: size / size_of::<AtomicU64>(), object: Object::Own(fd) })
    }

    /// The first `bytes` of a client's memory (a multiple of 4096, no more than there is).
    pub fn of_client(memory: SealedMemory, bytes: u64) -> Self {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX).min(memory.length());
        let length = length / size_of::<AtomicU64>();
        Self { words: memory.start().cast(), length, object: Object::Clients(memory) }
    }

    /// The memory of a driver in this process.
    ///
    /// # Safety
    ///
    /// It is `bytes` of memory, page-aligned, that are valid as long as this lives; no Rust object is in it, and it is
    /// reached by volatile or atomic access alone.
    pub unsafe fn of_driver(start: NonNull<u8>, bytes: usize) -> Self {
        let length = bytes / size_of::<AtomicU64>();
        Self { words: start.cast(), length, object: Object::Drivers }
    }

    /// Whether it is the platform's own, and not a client's or a driver's.
    pub fn is_own(&self) -> bool {
        matches!(self.object, Object::Own(_))
    }

    /// The memory as words, which other processes and simulated hardware may change at any time.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, is page-aligned, lives as long as `self`, and is never
        // reached but through atomics (by a driver in this process volatile, as it reaches all that its device may
        // write); any bytes are valid ones.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.length) }
    }

    /// The descriptor, to be passed to a client, if there is one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.object {
            Object::Own(fd) => Some(fd.as_fd()),
            Object::Clients(memory) => Some(memory.fd()),
            Object::Drivers => None,
        }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if !self.is_own() {
            return;
        }
        let bytes = self.length * size_of::<AtomicU64>();
        // SAFETY: the mapping was made in `new` with this start and length, and with `self` every borrow of
        // its words has ended.
        let unmapped = unsafe { munmap(self.words.as_ptr().cast(), bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn r5_the_length_is_sealed_and_other_mappings_see_the_same_words() {
        let memory = SharedMemory::new("test", 8192).unwrap();
        assert_eq!(memory.words().len(), 1024);
        let fd = memory.fd().unwrap();
        assert!(ftruncate(fd, 0).is_err());
        assert!(ftruncate(fd, 1 << 20).is_err());
        memory.words()[1].store(7, Relaxed);
        let mut bytes = [0; 8];
        rustix::io::pread(fd, &mut bytes, 8).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 7);
    }
}
