//! Memory that is the driver's own.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;
#[cfg(all(target_os = "linux", feature = "socket"))]
use std::os::fd::{AsRawFd, OwnedFd};

use dma_types::{CpuAddr, PAGE_SIZE};

use crate::extent::Extent;
use crate::protocol::Error;
use crate::transport::{Mapping, Supply};

/// Memory that is the driver's own, to be filled and then [registered](crate::Device::register).
///
/// It is read and written by copies, as a [`Buffer`](crate::Buffer) is, for other processes may see it, too.
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::ForeignMemory>();
/// ```
#[derive(Debug)]
#[must_use = "dropped, it is given up as it is"]
pub struct ForeignMemory {
    /// All that is mapped, which may be longer.
    mapping: Mapping,
    /// A multiple of 4096.
    bytes: usize,
    origin: Origin,
}

/// Where it is from, and what becomes of it when it is not registered.
#[derive(Debug)]
enum Origin {
    /// Somebody has given it for good; it stays where it is.
    Given,
    /// A memfd, of which this is the start.
    #[cfg(all(target_os = "linux", feature = "socket"))]
    Memfd(OwnedFd),
    /// A private mapping of its own.
    #[cfg(all(target_os = "redox", feature = "scheme"))]
    Mapped,
}

// SAFETY: the memory is not tied to a thread; it is a mapping of the process. It is not `Sync`, for two threads that
// write would race.
unsafe impl Send for ForeignMemory {}

impl ForeignMemory {
    /// Takes a range of this process's memory for good.
    ///
    /// It is for Redox, and for a driver in iommud's own process. On Linux the memory of a process cannot be passed on
    /// unless it is of a memfd from the start: `from_memfd`.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`], [`Error::BadAlignment`] if it is not whole pages.
    ///
    /// # Safety
    ///
    /// The range is valid for reads and writes, and is given for good: it is not of an allocator that will use it again,
    /// no Rust object is in it, and no reference to any of it is used again.
    ///
    /// On Redox it is from a private anonymous mapping; while it is being registered no thread touches it, nor maps
    /// anything, for that could get the place while it is empty.
    pub unsafe fn from_range(memory: NonNull<[u8]>) -> Result<Self, Error> {
        let (start, length) = (memory.cast::<u8>(), memory.len());
        let mapping = Mapping { memory: start, length };
        check(start.addr().get(), length)?;
        Ok(Self { mapping, bytes: length, origin: Origin::Given })
    }

    /// Its length in bytes, a multiple of 4096.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never: no bytes cannot be registered.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where this process sees it, before and after it is registered.
    pub fn cpu_address(&self) -> CpuAddr {
        self.mapping.memory.into()
    }

    /// The start of the memory, for access by raw pointers: volatile or atomic only.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.mapping.memory
    }

    /// Copies bytes out, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`], with nothing copied.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        self.extent().read(offset, out)
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`], with nothing copied.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), Error> {
        self.extent().write(offset, data)
    }

    fn extent(&self) -> Extent<'_> {
        // SAFETY: it is this value's mapping, or was given for good; either way it is readable and writable.
        unsafe { Extent::new(self.mapping.memory, self.bytes) }
    }

    /// The memory as a transport is told of it.
    pub(crate) fn supply(&self) -> Supply {
        let object = match &self.origin {
            Origin::Given => None,
            #[cfg(all(target_os = "linux", feature = "socket"))]
            Origin::Memfd(memfd) => u64::try_from(memfd.as_raw_fd()).ok(),
            #[cfg(all(target_os = "redox", feature = "scheme"))]
            Origin::Mapped => None,
        };
        Supply { memory: self.mapping.memory, bytes: self.bytes, object }
    }

    /// The mapping, which is the caller's from then on.
    pub(crate) fn into_mapping(self) -> Mapping {
        let this = ManuallyDrop::new(self);
        #[cfg(all(target_os = "linux", feature = "socket"))]
        if let Origin::Memfd(memfd) = &this.origin {
            // SAFETY: it is taken out of `this` once, which is neither used nor dropped any more.
            drop(unsafe { core::ptr::read(memfd) });
        }
        this.mapping
    }

    /// Leaves the memory alone: it is not this process's any more.
    pub(crate) fn forget(self) {
        let _ = self.into_mapping();
    }
}

/// Memory of new mappings, on the systems that have such.
#[cfg(any(
    all(target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
impl ForeignMemory {
    /// Zeroes, at least so many, in whole pages.
    ///
    /// On Linux they are in huge pages where the system has some free (`vm.nr_hugepages`), for an iommud with real
    /// devices takes no others ([`Error::MayMove`]).
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`], [`Error::TooLarge`], [`Error::OutOfMemory`].
    pub fn new(bytes: usize) -> Result<Self, Error> {
        if bytes == 0 {
            return Err(Error::ZeroSize);
        }
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE as usize).ok_or(Error::TooLarge)?;
        system::zeroes(bytes)
    }
}

#[cfg(all(target_os = "linux", feature = "socket"))]
impl ForeignMemory {
    /// All of a memfd. It is sealed against growing and shrinking here, if it was not before; when it is registered,
    /// iommud seals it for good against any new mapping by which it could be written, too.
    ///
    /// # Errors
    ///
    /// [`Error::NotMemory`] if it is something else, [`Error::NotOwnMemory`] if it may not be written or sealed,
    /// [`Error::ZeroSize`], [`Error::BadAlignment`] if it is not whole pages, [`Error::OutOfMemory`].
    pub fn from_memfd(memfd: OwnedFd) -> Result<Self, Error> {
        system::adopt(memfd, None)
    }
}

impl Drop for ForeignMemory {
    fn drop(&mut self) {
        match &self.origin {
            Origin::Given => {}
            #[cfg(all(target_os = "linux", feature = "socket"))]
            Origin::Memfd(_) => {
                // SAFETY: the mapping is this value's own, and nothing borrows from it any more.
                let _ = unsafe {
                    rustix::mm::munmap(self.mapping.memory.as_ptr().cast(), self.mapping.length)
                };
            }
            #[cfg(all(target_os = "redox", feature = "scheme"))]
            Origin::Mapped => {
                // SAFETY: as above.
                let _ = unsafe {
                    libredox::call::munmap(self.mapping.memory.as_ptr().cast(), self.mapping.length)
                };
            }
        }
    }
}

/// Refuses what is not whole pages.
fn check(start: usize, bytes: usize) -> Result<(), Error> {
    let page = PAGE_SIZE as usize;
    match bytes {
        0 => Err(Error::ZeroSize),
        _ if !start.is_multiple_of(page) || !bytes.is_multiple_of(page) => Err(Error::BadAlignment),
        _ => Ok(()),
    }
}

#[cfg(all(target_os = "linux", feature = "socket"))]
mod system {
    use core::ptr::{NonNull, null_mut};
    use std::os::fd::OwnedFd;

    use rustix::fs::{
        MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
    };
    use rustix::io::Errno;
    use rustix::mm::{MapFlags, ProtFlags, mmap};

    use super::{ForeignMemory, Origin, check};
    use crate::protocol::Error;
    use crate::transport::Mapping;

    /// The length of a huge page.
    const HUGE_PAGE: usize = 2 << 20;

    /// A memfd of zeroes, in huge pages if there are any.
    pub(super) fn zeroes(bytes: usize) -> Result<ForeignMemory, Error> {
        let huge = || {
            let length = bytes.checked_next_multiple_of(HUGE_PAGE).ok_or(Error::TooLarge)?;
            adopt(memfd(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, length)?, Some(bytes))
        };
        huge().or_else(|_| adopt(memfd(MemfdFlags::empty(), bytes)?, Some(bytes)))
    }

    fn memfd(flags: MemfdFlags, length: usize) -> Result<OwnedFd, Error> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags;
        let memfd = memfd_create("libdma", flags).map_err(refused)?;
        ftruncate(&memfd, length as u64).map_err(refused)?;
        Ok(memfd)
    }

    /// Maps a memfd, of which `bytes` are to be registered, or all.
    pub(super) fn adopt(memfd: OwnedFd, bytes: Option<usize>) -> Result<ForeignMemory, Error> {
        let fixed = SealFlags::SHRINK | SealFlags::GROW;
        let seals = fcntl_get_seals(&memfd).map_err(|_| Error::NotMemory)?;
        if !seals.contains(fixed) {
            fcntl_add_seals(&memfd, fixed).map_err(|_| Error::NotOwnMemory)?;
        }
        // Its length does not change any more.
        let length = fstat(&memfd).map_err(refused)?.st_size;
        let length = usize::try_from(length).map_err(|_| Error::TooLarge)?;
        let bytes = bytes.unwrap_or(length);
        check(0, bytes)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let start = unsafe { mmap(null_mut(), length, access, MapFlags::SHARED, &memfd, 0) };
        let start = NonNull::new(start.map_err(refused)?.cast()).ok_or(Error::BadAddress)?;
        let mapping = Mapping { memory: start, length };
        Ok(ForeignMemory { mapping, bytes, origin: Origin::Memfd(memfd) })
    }

    /// Why the kernel gives no such memory.
    fn refused(errno: Errno) -> Error {
        match errno {
            Errno::NOMEM => Error::OutOfMemory,
            Errno::PERM | Errno::ACCESS => Error::NotOwnMemory,
            errno => Error::Other(errno.raw_os_error() as u16),
        }
    }
}

#[cfg(all(target_os = "redox", feature = "scheme"))]
mod system {
    use core::ptr::{NonNull, null_mut};

    use libredox::Fd;
    use libredox::call::{self, MmapArgs};
    use libredox::flag::{MAP_PRIVATE, O_CLOEXEC, O_RDWR, PROT_READ, PROT_WRITE};

    use super::{ForeignMemory, Origin};
    use crate::protocol::Error;
    use crate::transport::Mapping;

    /// Anonymous memory.
    pub(super) fn zeroes(bytes: usize) -> Result<ForeignMemory, Error> {
        let refused = |error: libredox::error::Error| {
            Error::from_errno(u16::try_from(error.errno()).unwrap_or(u16::MAX))
        };
        let source =
            Fd::open("/scheme/memory/zeroed@wb", O_RDWR | O_CLOEXEC, 0).map_err(refused)?;
        let arguments = MmapArgs {
            addr: null_mut(),
            length: bytes,
            prot: PROT_READ | PROT_WRITE,
            flags: MAP_PRIVATE,
            fd: source.raw(),
            offset: 0,
        };
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let start = unsafe { call::mmap(arguments) }.map_err(refused)?;
        let memory = NonNull::new(start.cast()).ok_or(Error::BadAddress)?;
        let mapping = Mapping { memory, length: bytes };
        Ok(ForeignMemory { mapping, bytes, origin: Origin::Mapped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_are_taken() {
        let refused = |start: usize, length: usize| {
            let start = NonNull::new(core::ptr::without_provenance_mut(start)).unwrap();
            let range = NonNull::slice_from_raw_parts(start, length);
            // SAFETY: a range that is no memory at all is refused before anybody reaches for it.
            unsafe { ForeignMemory::from_range(range) }.map(|_| ()).unwrap_err()
        };
        assert_eq!(refused(0x1000, 0), Error::ZeroSize);
        assert_eq!(refused(0x1008, 0x1000), Error::BadAlignment);
        assert_eq!(refused(0x1000, 0xfff), Error::BadAlignment);
    }

    #[cfg(all(target_os = "linux", feature = "socket", not(miri)))]
    #[test]
    fn new_memory_is_zeroes_and_takes_what_is_written_and_no_more() {
        let memory = ForeignMemory::new(5000).unwrap();
        assert_eq!(memory.len(), 8192);
        let mut bytes = [1; 4];
        memory.read(8188, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4]);
        memory.write(8188, &[7; 4]).unwrap();
        memory.read(8188, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 4]);
        assert_eq!(memory.write(8189, &[7; 4]), Err(Error::OutOfBuffer));
        assert_eq!(memory.read(usize::MAX, &mut bytes), Err(Error::OutOfBuffer));
        assert_eq!(ForeignMemory::new(0).map(|_| ()).unwrap_err(), Error::ZeroSize);
        assert_eq!(ForeignMemory::new(usize::MAX).map(|_| ()).unwrap_err(), Error::TooLarge);
    }

    #[cfg(all(target_os = "linux", feature = "socket", not(miri)))]
    #[test]
    fn only_a_memfd_that_can_be_written_and_sealed_is_adopted() {
        use rustix::fs::{
            MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate,
            memfd_create, open,
        };
        let made = |length, seals| {
            let memfd = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
            ftruncate(&memfd, length).unwrap();
            fcntl_add_seals(&memfd, seals).unwrap();
            memfd
        };
        let refused = |memfd| ForeignMemory::from_memfd(memfd).map(|_| ()).unwrap_err();
        let null = open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        assert_eq!(refused(null), Error::NotMemory);
        assert_eq!(refused(made(0, SealFlags::empty())), Error::ZeroSize);
        assert_eq!(refused(made(4097, SealFlags::empty())), Error::BadAlignment);
        assert_eq!(refused(made(4096, SealFlags::SEAL)), Error::NotOwnMemory);
        assert_eq!(refused(made(4096, SealFlags::WRITE)), Error::NotOwnMemory);
        let memfd = made(8192, SealFlags::empty());
        let memory = ForeignMemory::from_memfd(memfd.try_clone().unwrap()).unwrap();
        assert_eq!(memory.len(), 8192);
        assert!(fcntl_get_seals(&memfd).unwrap().contains(SealFlags::SHRINK | SealFlags::GROW));
    }
}
