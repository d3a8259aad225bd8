//! A memory object: memory that outlives the process which uses it.
//!
//! It is an address space in which nobody runs (kernel 663e6641, `src/scheme/proc.rs`: `empty`). Whoever holds a
//! descriptor of it, or has mapped some of it, keeps what is in it: its frames are given to nobody else.
//! The keeper and the process that serves hold it, and the keeper hands it to the next. What is in it, it tells itself:
//! reading its descriptor lists it, and what each piece is for is in its [address](super::area).

use core::mem::offset_of;
use std::vec;

use libredox::Fd;
use libredox::call::fcntl;
use libredox::error::{Error, Result};
use libredox::flag::{F_SETFD, O_CLOEXEC};
use syscall::MapFlags;
use syscall::data::{GrantDesc, GrantFlags};
use syscall::flag::{
    ADDRSPACE_OP_MMAP, ADDRSPACE_OP_MPROTECT, ADDRSPACE_OP_MUNMAP, ADDRSPACE_OP_TRANSFER,
};
use syscall::{SYS_READ2, syscall5};

use super::area::ANCHOR_PAGE;
use super::plain::Extent;

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
    pub fn add(&self, address: usize, bytes: usize, source: &Fd) -> Result<()> {
        let memory = MapFlags::PROT_READ | MapFlags::PROT_WRITE;
        let flags = memory | MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
        self.tell(&[ADDRSPACE_OP_MMAP, source.raw(), 0, address, bytes, flags.bits()])
    }

    /// Puts `bytes` of zeroes at `address`, where there must be nothing yet, that nobody writes to.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn add_zeroes(&self, address: usize, bytes: usize) -> Result<()> {
        let flags = MapFlags::PROT_READ | MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
        // Of no descriptor.
        self.tell(&[ADDRSPACE_OP_MMAP, usize::MAX, 0, address, bytes, flags.bits()])
    }

    /// Maps a page that another has at `from`, to read it, at `address`, where there must be nothing yet. The other lives
    /// as long as that is mapped.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn borrow_page(&self, address: usize, other: &Self, from: usize) -> Result<()> {
        let flags = MapFlags::PROT_READ | MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE;
        let (other, bytes) = (other.descriptor.raw(), ANCHOR_PAGE);
        self.tell(&[ADDRSPACE_OP_MMAP, other, from, address, bytes, flags.bits()])
    }

    /// Takes out what was put at `address`. Those who have mapped it keep what they see.
    ///
    /// # Errors
    ///
    /// Those of the kernel. The object keeps it then.
    pub fn remove(&self, address: usize, bytes: usize) -> Result<()> {
        self.tell(&[ADDRSPACE_OP_MUNMAP, address, bytes])
    }

    /// Moves `bytes` at `from` in another address space to `address` here, where there must be nothing yet.
    ///
    /// # Errors
    ///
    /// Those of the kernel, which moves nothing then.
    pub fn receive(&self, address: usize, bytes: usize, source: &Fd, from: usize) -> Result<()> {
        move_memory(&self.descriptor, address, bytes, source, from)
    }

    /// What is in it.
    pub fn extents(&self) -> Extents<'_> {
        extents(&self.descriptor)
    }

    /// Its descriptor, as nothing but that.
    pub fn into_descriptor(self) -> Fd {
        self.descriptor
    }

    fn tell(&self, words: &[usize]) -> Result<()> {
        tell(&self.descriptor, words)
    }
}

/// The descriptor by which the kernel knows this thread.
pub fn thread() -> usize {
    redox_cur_thrfd_v0()
}

/// Moves `bytes` at `from` in the address space `source` to `address` in another, where there must be nothing yet.
/// Pages that have several owners stay theirs: here they are written to only after they were copied.
///
/// # Errors
///
/// Those of the kernel: `EBUSY` also where the two ranges overlap as numbers.
pub fn move_memory(
    target: &Fd,
    address: usize,
    bytes: usize,
    source: &Fd,
    from: usize,
) -> Result<()> {
    // First for reading alone: for writing, the kernel would let pages be written to that others own as well.
    let readable = MapFlags::PROT_READ | MapFlags::MAP_FIXED_NOREPLACE;
    tell(target, &[ADDRSPACE_OP_TRANSFER, source.raw(), from, address, bytes, readable.bits()])?;
    let writable = MapFlags::PROT_READ | MapFlags::PROT_WRITE;
    tell(target, &[ADDRSPACE_OP_MPROTECT, address, bytes, writable.bits()])
}

/// What is in an address space, in the order of addresses.
pub fn extents(space: &Fd) -> Extents<'_> {
    Extents { space, told: Vec::new().into_iter(), next: 0, failure: None }
}

/// What is in an address space, read as far as it is asked for. It ends where the kernel tells no more.
pub struct Extents<'a> {
    space: &'a Fd,
    told: vec::IntoIter<Extent>,
    /// From where on the kernel has not told yet.
    next: usize,
    failure: Option<Error>,
}

impl Extents<'_> {
    /// Why it has ended before its time, if it has.
    pub fn failure(&self) -> Option<Error> {
        self.failure
    }

    fn ask(&mut self) -> Result<Vec<Extent>> {
        const DESCRIPTION: usize = size_of::<GrantDesc>();
        let mut bytes = [0; 16 * DESCRIPTION];
        let (space, next) = (self.space.raw(), self.next);
        // From a place of this call's own: that of the descriptor is its sender's, too, who could turn it back for ever.
        // SAFETY: the kernel writes to these bytes, and no more than there are of them.
        let length = unsafe {
            syscall5(SYS_READ2, space, bytes.as_mut_ptr().addr(), bytes.len(), next, usize::MAX)
        }?;
        self.next += length;
        let told = bytes.get(..length).unwrap_or_default();
        Ok(told.chunks_exact(DESCRIPTION).map(extent).collect())
    }
}

impl Iterator for Extents<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        if let Some(extent) = self.told.next() {
            return Some(extent);
        }
        match self.ask() {
            Ok(told) => self.told = told.into_iter(),
            Err(error) => self.failure = Some(error),
        }
        self.told.next()
    }
}

fn extent(description: &[u8]) -> Extent {
    let word = |at: usize| {
        let word = description.get(at..).and_then(|rest| rest.first_chunk());
        word.map_or(0, |word| usize::from_ne_bytes(*word))
    };
    let flags = GrantFlags::from_bits_retain(word(offset_of!(GrantDesc, flags)));
    let other = GrantFlags::GRANT_SHARED
        | GrantFlags::GRANT_SCHEME
        | GrantFlags::GRANT_PHYS
        | GrantFlags::GRANT_PINNED;
    Extent {
        start: word(offset_of!(GrantDesc, base)),
        bytes: word(offset_of!(GrantDesc, size)),
        is_plain: !flags.intersects(other),
    }
}

fn tell(space: &Fd, words: &[usize]) -> Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    space.write(&bytes).map(drop)
}
