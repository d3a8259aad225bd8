//! Where a page of this process is in physical memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bitfield_struct::bitfield;
use dma_types::{CpuAddr, PAGE_SIZE, PhysAddr};

/// An entry of `/proc/self/pagemap` (Linux, `Documentation/admin-guide/mm/pagemap.rst`).
#[bitfield(u64)]
struct Entry {
    /// The number of the page's frame. Zero for a reader that may not know.
    #[bits(55)]
    frame: u64,
    #[bits(8)]
    __: u8,
    /// The page is in memory.
    present: bool,
}

/// The map, opened.
#[derive(Debug)]
pub struct PageMap {
    file: File,
}

impl PageMap {
    /// Opens the map.
    pub fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/pagemap")? })
    }

    /// Where the page at this address is. An error if it is not in memory, or this process may not know.
    pub fn translate(&self, page: CpuAddr) -> io::Result<PhysAddr> {
        let mut entry = [0; 8];
        let index = page.get() / PAGE_SIZE;
        self.file.read_exact_at(&mut entry, index * size_of::<Entry>() as u64)?;
        let entry = Entry::from_bits(u64::from_le_bytes(entry));
        if !entry.present() {
            return Err(io::ErrorKind::NotFound.into());
        }
        match entry.frame() {
            0 => Err(io::ErrorKind::PermissionDenied.into()),
            frame => Ok(PhysAddr::new(frame * PAGE_SIZE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_as_documented() {
        let entry = Entry::from_bits(0x8180_0000_0001_2345);
        assert!(entry.present());
        assert_eq!(entry.frame(), 0x1_2345);
        assert!(!Entry::from_bits(0x0100_0000_0001_2345).present());
    }
}
