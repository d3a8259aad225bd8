//! Device memory by `/dev/mem`, mapped uncached until the process ends.

use core::ptr::{self, NonNull};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use dma_types::PhysAddr;
use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::platform::register_windows::MapRegisters;

/// Physical memory.
#[derive(Debug)]
pub struct DeviceMemory(File);

impl DeviceMemory {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        // With it, what is mapped is not cached.
        let sync = OFlags::SYNC.bits().cast_signed();
        let memory = File::options().read(true).write(true).custom_flags(sync).open("/dev/mem")?;
        Ok(Self(memory))
    }
}

// SAFETY: what is mapped is device memory, for reading and writing, and never unmapped.
unsafe impl MapRegisters for DeviceMemory {
    type Pages = NonNull<u8>;

    fn map(&self, base: PhysAddr, bytes: usize) -> Option<NonNull<u8>> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody.
        let pages =
            unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, &self.0, base.get()) };
        NonNull::new(pages.ok()?.cast())
    }

    fn start(pages: &NonNull<u8>) -> NonNull<u8> {
        *pages
    }
}
