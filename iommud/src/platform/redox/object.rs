//! A memory object: memory that outlives the process which uses it.
//!
//! It is an address space in which nobody runs (kernel 663e6641, `src/scheme/proc.rs`: `empty`). Whoever holds a
//! descriptor of it, or has mapped some of it, keeps what is in it: its frames are given to nobody else.
//! The keeper and the process that serves hold one each. What chunks are in it, it tells itself: reading its
//! descriptor lists them.
//!
//! A chunk lies at the address at which the serving process has it mapped, so that the two need no book of
//! where is what.

use core::ptr::NonNull;

use libredox::Fd;
use libredox::call::fcntl;
use libredox::error::Result;
use libredox::flag::{F_SETFD, MAP_PRIVATE, O_CLOEXEC, PROT_READ, PROT_WRITE};
use syscall::MapFlags;
use syscall::flag::{ADDRSPACE_OP_MMAP, ADDRSPACE_OP_MUNMAP};

unsafe extern "C" {
    /// The descriptor by which the kernel knows the thread that calls. relibc exports it; the value stays
    /// relibc's own, and is valid as long as the thread.
    safe fn redox_cur_thrfd_v0() -> usize;
}

/// A memory object.
pub struct MemoryObject {
    descriptor: Fd,
}

impl MemoryObject {
    /// An object with nothing in it.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn create() -> Result<Self> {
        let own = Fd::new(libredox::call::dup(redox_cur_thrfd_v0(), b"addrspace")?);
        Self::inherited(Fd::new(own.dup(b"empty")?))
    }

    /// The object of a descriptor that another process has left to this one.
    ///
    /// # Errors
    ///
    /// Those of a number that is no descriptor.
    pub fn inherited(descriptor: Fd) -> Result<Self> {
        // The flag has the same value among a descriptor's flags as among those of open.
        fcntl(descriptor.raw(), F_SETFD as usize, O_CLOEXEC as usize)?;
        Ok(Self { descriptor })
    }

    /// The descriptor, for mapping the object and for leaving it to another process.
    pub fn descriptor(&self) -> &Fd {
        &self.descriptor
    }

    /// Puts `bytes` of what `source` gives at `address`, where there must be nothing yet.
    ///
    /// # Errors
    ///
    /// Those of the source: usually that there is no such memory.
    pub fn add(&self, address: NonNull<u8>, bytes: usize, source: &Fd) -> Result<()> {
        let flags = MAP_PRIVATE | PROT_READ | PROT_WRITE;
        let flags = flags as usize | MapFlags::MAP_FIXED_NOREPLACE.bits();
        let start = address.addr().get();
        self.tell(&[ADDRSPACE_OP_MMAP, source.raw(), 0, start, bytes, flags])
    }

    /// Takes out what was put at `address`. Those who have mapped it keep what they see.
    ///
    /// # Errors
    ///
    /// Those of the kernel. The object keeps it then.
    pub fn remove(&self, address: NonNull<u8>, bytes: usize) -> Result<()> {
        self.tell(&[ADDRSPACE_OP_MUNMAP, address.addr().get(), bytes])
    }

    fn tell(&self, words: &[usize]) -> Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.descriptor.write(&bytes).map(drop)
    }
}
