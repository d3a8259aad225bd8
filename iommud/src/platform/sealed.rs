//! Memory that clients supply on Linux: memfds of theirs, which they have mapped and keep.
//!
//! The memory must stay what it is for as long as a device reaches it, whatever the client does with the descriptors
//! and mappings that it has (rule R2). The daemon holds a descriptor and a mapping of its own, so that nothing is freed
//! because the client closes, unmaps or dies. What else could free or move a page of a memfd (Linux 6.1, and read again
//! in 6.18):
//!
//! | what | why it cannot |
//! | --- | --- |
//! | cutting it short (`ftruncate`) | `F_SEAL_SHRINK` |
//! | punching a hole (`fallocate`, `MADV_REMOVE`), which unmaps the pages from the daemon as well and frees them | `F_SEAL_FUTURE_WRITE`: both file systems refuse it then, under the lock by which seals are set (`fs/hugetlbfs/inode.c`, `hugetlbfs_punch_hole`; `mm/shmem.c`, `shmem_fallocate`) |
//! | swapping, compaction, khugepaged | not for pages in hugetlb, of which nothing else is taken where devices are real |
//! | migration by the client (`mbind`, `move_pages`) | only of pages that nobody else has mapped, unless it has `CAP_SYS_NICE` (`mm/mempolicy.c`) |
//! | what root does: `CAP_SYS_NICE`, soft offlining, memory hot-unplug | nothing. Linux is for tests, and there root is trusted |
//!
//! `F_SEAL_FUTURE_WRITE` leaves the mappings as they are that there are already, the client's and the daemon's. It also
//! says of a memfd that whoever is given it may only read it, and so the *daemon* sets it, after it has made a mapping by
//! which it could write: a client that was given a memfd to read cannot have a device write to it (rule R3). Then the
//! memfd is sealed against more seals, and taken once and not again: what has these seals already is refused. The
//! daemon's own runs are sealed against more seals from the start, and so are files in file systems.

use core::cmp::Ordering;
use core::ptr::{self, NonNull};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dma_types::CpuAddr;
use libdma::Error;
use rustix::fs::{
    OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fcntl_getfl, fstat, fstatfs,
};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Which pages may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Any.
    Any,
    /// Those of hugetlb of this length alone, for they stay where they are.
    Huge(u64),
}

/// What the file system of hugetlb says that it is (Linux, `include/uapi/linux/magic.h`).
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// A client's memfd, mapped for as long as this lives, all its pages there to stay.
#[derive(Debug)]
pub struct SealedMemory {
    fd: OwnedFd,
    start: NonNull<u8>,
    /// What is mapped: whole pages of the kind that it is in.
    length: usize,
}

// SAFETY: the memory is a mapping of the process and not tied to a thread, and is reached by nobody through this but as
// whoever takes its start answers for.
unsafe impl Send for SealedMemory {}
// SAFETY: as above.
unsafe impl Sync for SealedMemory {}

impl SealedMemory {
    /// Takes what was sent, of which `bytes` (a multiple of 4096, not zero) are wanted: it is as long, in whole pages of
    /// its own. Were it longer, whatever takes long with the rest would hold up the daemon here.
    ///
    /// # Errors
    ///
    /// [`Error::NotMemory`] for what is no memfd, [`Error::NotOwnMemory`] for one that its sender may not write or has not
    /// sealed, or that is another's, [`Error::MayMove`] for the wrong pages, [`Error::OutOfBuffer`] for one that is too
    /// short, [`Error::TooLarge`] for one that is too long, [`Error::OutOfMemory`] if there is none for all its pages. Up to then it is as it was.
    pub fn take(sent: OwnedFd, bytes: u64, pages: Pages) -> Result<Self, Error> {
        let seals = fcntl_get_seals(&sent).map_err(|_| Error::NotMemory)?;
        let may_write = fcntl_getfl(&sent).map_err(refusal)? & OFlags::RWMODE == OFlags::RDWR;
        let is_its_own = seals.contains(LENGTH) && !seals.contains(SealFlags::SEAL) && may_write;
        if !is_its_own {
            return Err(Error::NotOwnMemory);
        }
        let page = page_of(&sent, pages)?;
        let length = bytes.checked_next_multiple_of(page).ok_or(Error::TooLarge)?;
        // The length is sealed: it does not change any more.
        match u64::try_from(fstat(&sent).map_err(refusal)?.st_size).map(|it| it.cmp(&length)) {
            Ok(Ordering::Equal) => {}
            Ok(Ordering::Less) => return Err(Error::OutOfBuffer),
            Ok(Ordering::Greater) | Err(_) => return Err(Error::TooLarge),
        }
        let length = usize::try_from(length).map_err(|_| Error::TooLarge)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody. The file is sealed to
        // stay as long as the mapping.
        let start = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, &sent, 0) };
        let start = NonNull::new(start.map_err(refusal)?.cast()).ok_or(Error::OutOfMemory)?;
        let memory = Self { fd: sent, start, length };
        // First, so that what fails for want of memory leaves it as it was.
        memory.populate()?;
        fcntl_add_seals(&memory.fd, TAKEN).map_err(refusal)?;
        // No page can go from now on; one that went before comes back here.
        memory.populate()?;
        Ok(memory)
    }

    /// What a process before this one took, `length` bytes of whole pages: it is sealed, and none of its pages has gone. It is
    /// mapped for reading alone, for its seals allow nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwnMemory`] if it is not what was taken.
    pub fn inherited(memory: OwnedFd, length: u64) -> Result<Self, Error> {
        let there = u64::try_from(fstat(&memory).map_err(refusal)?.st_size).ok();
        if !is_taken(&memory) || there != Some(length) || length == 0 {
            return Err(Error::NotOwnMemory);
        }
        let length = usize::try_from(length).map_err(|_| Error::TooLarge)?;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: as in `take`.
        let start = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, flags, &memory, 0) };
        let start = NonNull::new(start.map_err(refusal)?.cast()).ok_or(Error::OutOfMemory)?;
        Ok(Self { fd: memory, start, length })
    }

    /// Has all pages be there. Told by an error, where touching one would end the daemon.
    fn populate(&self) -> Result<(), Error> {
        let start = self.start.as_ptr().cast();
        // SAFETY: pages of the mapping that are missing are made; nothing that is there changes.
        unsafe { madvise(start, self.length, Advice::LinuxPopulateWrite) }.map_err(refusal)
    }

    /// Where this process sees it.
    pub fn address(&self) -> CpuAddr {
        self.start.into()
    }

    /// Where this process sees it, for access through atomics alone: where it was [inherited](Self::inherited), for reading.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// How much is mapped: at least what was taken.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The descriptor, to be passed to a client, which can map it for reading alone.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SealedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `take` or `inherited` with this start and length, and whoever took its start must not use it
        // any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

/// The seals by which a client says that the length stays.
const LENGTH: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// The seals of what was taken.
const TAKEN: SealFlags = SealFlags::FUTURE_WRITE.union(SealFlags::SEAL);

/// Whether a run's memory is a client's, which cannot be mapped for writing any more.
pub fn is_taken(memory: impl AsFd) -> bool {
    fcntl_get_seals(memory).is_ok_and(|seals| seals.contains(TAKEN))
}

/// The length of the pages that a memfd is in, if they are such as may be taken.
fn page_of(memfd: &OwnedFd, pages: Pages) -> Result<u64, Error> {
    let system = fstatfs(memfd).map_err(refusal)?;
    let page = u64::try_from(system.f_bsize).map_err(|_| Error::MayMove)?;
    match pages {
        Pages::Huge(length) if system.f_type != HUGETLBFS_MAGIC || page != length => {
            Err(Error::MayMove)
        }
        _ if !page.is_power_of_two() => Err(Error::MayMove),
        _ => Ok(page),
    }
}

/// Why the kernel refused.
fn refusal(errno: Errno) -> Error {
    match errno {
        // Of populating: there is no page.
        Errno::NOMEM | Errno::FAULT => Error::OutOfMemory,
        Errno::PERM | Errno::ACCESS => Error::NotOwnMemory,
        _ => Error::NotMemory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FallocateFlags, MemfdFlags, Mode, fallocate, ftruncate, memfd_create, open};
    use std::os::fd::AsRawFd;

    const PAGE: u64 = 4096;

    fn memfd(pages: u64, seals: SealFlags) -> OwnedFd {
        let memfd = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memfd, pages * PAGE).unwrap();
        fcntl_add_seals(&memfd, seals).unwrap();
        memfd
    }

    fn refused(sent: OwnedFd) -> Error {
        SealedMemory::take(sent, 2 * PAGE, Pages::Any).map(|_| ()).unwrap_err()
    }

    fn punch(memfd: &OwnedFd) -> rustix::io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(memfd, hole, 0, 2 * PAGE)
    }

    #[test]
    fn r2_no_hole_is_punched_into_what_was_taken() {
        let memfd = memfd(2, LENGTH);
        let clients = memfd.try_clone().unwrap();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, which stays.
        let seen = unsafe { mmap(ptr::null_mut(), 8192, access, MapFlags::SHARED, &clients, 0) };
        let seen = seen.unwrap().cast::<u64>();
        // Before, there can be.
        punch(&clients).unwrap();
        let memory = SealedMemory::take(memfd, 2 * PAGE, Pages::Any).unwrap();
        // SAFETY: it is mapped for both.
        unsafe { seen.write_volatile(7) };
        assert_eq!(punch(&clients), Err(Errno::PERM));
        // SAFETY: as above.
        let removed = unsafe { madvise(seen.cast(), 8192, Advice::LinuxRemove) };
        assert_eq!(removed, Err(Errno::PERM));
        assert_eq!(ftruncate(&clients, 0), Err(Errno::PERM));
        // SAFETY: as above.
        assert_eq!(unsafe { memory.start().cast::<u64>().read_volatile() }, 7);
        assert!(is_taken(&clients));
    }

    #[test]
    fn what_was_taken_is_found_by_a_successor_and_nothing_else_is() {
        let memfd = memfd(2, LENGTH);
        assert!(SealedMemory::inherited(memfd.try_clone().unwrap(), 2 * PAGE).is_err());
        let taken = SealedMemory::take(memfd.try_clone().unwrap(), 2 * PAGE, Pages::Any).unwrap();
        // SAFETY: it is mapped for both.
        unsafe { taken.start().cast::<u64>().write_volatile(7) };
        for wrong in [PAGE, 3 * PAGE, 0] {
            assert!(SealedMemory::inherited(memfd.try_clone().unwrap(), wrong).is_err());
        }
        drop(taken);
        let again = SealedMemory::inherited(memfd, 2 * PAGE).unwrap();
        assert_eq!(again.length() as u64, 2 * PAGE);
        // SAFETY: it is mapped for reading.
        assert_eq!(unsafe { again.start().cast::<u64>().read_volatile() }, 7);
    }

    #[test]
    fn r3_only_what_its_sender_may_write_and_nobody_has_taken_is_taken() {
        assert_eq!(refused(memfd(2, SealFlags::empty())), Error::NotOwnMemory);
        assert_eq!(refused(memfd(2, SealFlags::SHRINK)), Error::NotOwnMemory);
        // A memfd that somebody else lets its sender read.
        assert_eq!(refused(memfd(2, LENGTH | SealFlags::FUTURE_WRITE)), Error::NotOwnMemory);
        assert_eq!(refused(memfd(2, LENGTH | SealFlags::WRITE)), Error::NotOwnMemory);
        assert_eq!(refused(memfd(2, LENGTH | SealFlags::SEAL)), Error::NotOwnMemory);
        let whole = memfd(2, LENGTH);
        let path = format!("/proc/self/fd/{}", whole.as_raw_fd());
        for access in [OFlags::RDONLY, OFlags::WRONLY] {
            assert_eq!(refused(open(&path, access, Mode::empty()).unwrap()), Error::NotOwnMemory);
        }
        assert!(!is_taken(&whole), "a refused memfd is as it was");
        let taken = SealedMemory::take(whole.try_clone().unwrap(), 2 * PAGE, Pages::Any).unwrap();
        assert_eq!(refused(whole.try_clone().unwrap()), Error::NotOwnMemory);
        drop(taken);
        assert_eq!(refused(whole), Error::NotOwnMemory, "nor ever again");
    }

    #[test]
    fn r5_what_is_no_memfd_or_not_long_enough_is_refused() {
        for path in ["/dev/null", "/dev/zero", "/proc/self/exe", "/proc/self/mem", "/"] {
            assert_eq!(
                refused(open(path, OFlags::RDONLY, Mode::empty()).unwrap()),
                Error::NotMemory
            );
        }
        let path_only = open("/proc/self/exe", OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(refused(path_only), Error::NotMemory);
        assert_eq!(refused(std::io::pipe().unwrap().0.into()), Error::NotMemory);
        assert_eq!(refused(memfd(1, LENGTH)), Error::OutOfBuffer);
        assert_eq!(refused(memfd(0, LENGTH)), Error::OutOfBuffer);
        assert_eq!(refused(memfd(3, LENGTH)), Error::TooLarge);
        let plain = SealedMemory::take(memfd(512, LENGTH), PAGE, Pages::Huge(2 << 20));
        assert_eq!(plain.map(|_| ()).unwrap_err(), Error::MayMove);
    }
}
