//! Register windows: device memory by `/dev/mem`, mapped uncached until the process ends.

use core::ptr::{self, NonNull};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{PlatformError, RegisterWindow, Registers};
use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// All the windows that were asked for.
#[derive(Debug)]
pub struct RegisterWindows {
    memory: File,
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    base: PhysAddr,
    bytes: usize,
    /// Where in this process the first register is.
    start: NonNull<u8>,
}

impl RegisterWindows {
    /// Opens physical memory. No windows yet.
    pub fn open() -> io::Result<Self> {
        // With it, what is mapped is not cached.
        let sync = OFlags::SYNC.bits().cast_signed();
        let memory = File::options().read(true).write(true).custom_flags(sync).open("/dev/mem")?;
        Ok(Self { memory, windows: Vec::new() })
    }

    fn map(&self, base: PhysAddr, bytes: usize) -> Option<Window> {
        let lead = base.page_offset() as usize;
        let length = lead.checked_add(bytes)?.checked_next_multiple_of(PAGE_SIZE as usize)?;
        base.page().checked_add(length as u64)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice takes nothing from anybody.
        let pages = unsafe {
            mmap(ptr::null_mut(), length, access, MapFlags::SHARED, &self.memory, base.page().get())
        };
        // SAFETY: `lead` is below the length of what was just mapped.
        let start = unsafe { NonNull::new(pages.ok()?.cast::<u8>())?.add(lead) };
        Some(Window { base, bytes, start })
    }

    /// Where a register of type `T` is: `None` past the end of the window, and where it would not be
    /// aligned.
    fn register<T>(&self, window: RegisterWindow, offset: usize) -> Option<NonNull<T>> {
        let window = self.windows.get(window.0 as usize)?;
        if offset.checked_add(size_of::<T>())? > window.bytes {
            return None;
        }
        // SAFETY: inside the window, which is one mapping.
        let register = unsafe { window.start.add(offset) }.cast();
        register.is_aligned().then_some(register)
    }

    fn read<T>(&self, window: RegisterWindow, offset: usize) -> Option<T> {
        let register = self.register::<T>(window, offset)?;
        // SAFETY: aligned, and in memory that is never unmapped; u32 and u64, the only types that this is
        // called with, have no invalid values.
        Some(unsafe { register.read_volatile() })
    }

    fn write<T>(&self, window: RegisterWindow, offset: usize, value: T) {
        if let Some(register) = self.register::<T>(window, offset) {
            // SAFETY: aligned, and in memory that is mapped for writing and never unmapped; device memory is
            // no part of any Rust object.
            unsafe { register.write_volatile(value) };
        }
    }
}

impl Registers for RegisterWindows {
    fn map_registers(
        &mut self,
        base: PhysAddr,
        bytes: usize,
    ) -> Result<RegisterWindow, PlatformError> {
        let same = |window: &Window| window.base == base && window.bytes == bytes;
        let number = match self.windows.iter().position(same) {
            Some(known) => known,
            None => {
                let window = self.map(base, bytes).ok_or(PlatformError::Registers(base))?;
                self.windows.push(window);
                self.windows.len() - 1
            }
        };
        u32::try_from(number).map(RegisterWindow).map_err(|_| PlatformError::Registers(base))
    }

    fn read32(&mut self, window: RegisterWindow, offset: usize) -> u32 {
        self.read(window, offset).unwrap_or(u32::MAX)
    }

    fn write32(&mut self, window: RegisterWindow, offset: usize, value: u32) {
        self.write(window, offset, value);
    }

    fn read64(&mut self, window: RegisterWindow, offset: usize) -> u64 {
        self.read(window, offset).unwrap_or(u64::MAX)
    }

    fn write64(&mut self, window: RegisterWindow, offset: usize, value: u64) {
        self.write(window, offset, value);
    }
}
