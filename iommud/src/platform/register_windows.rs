//! Register windows: device memory, mapped uncached.

use core::ptr::NonNull;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{PlatformError, RegisterWindow, Registers};

/// What maps device memory.
///
/// # Safety
///
/// What [`map`](Self::map) returned is mapped for reading and writing, all of it, and stays so as long as it lives; it is
/// no part of any Rust object.
pub unsafe trait MapRegisters {
    /// Pages that are mapped.
    type Pages;

    /// Maps device memory, uncached. `base` and `bytes` are multiples of the page size.
    fn map(&self, base: PhysAddr, bytes: usize) -> Option<Self::Pages>;

    /// Where in this process the pages are.
    fn start(pages: &Self::Pages) -> NonNull<u8>;
}

/// All the windows that were asked for.
#[derive(Debug)]
pub struct RegisterWindows<M: MapRegisters> {
    memory: M,
    windows: Vec<Window<M::Pages>>,
}

#[derive(Debug)]
struct Window<Pages> {
    base: PhysAddr,
    bytes: usize,
    /// The pages that hold the window.
    pages: Pages,
    /// Where in them the window starts.
    lead: usize,
}

impl<M: MapRegisters> RegisterWindows<M> {
    /// No windows yet.
    pub fn new(memory: M) -> Self {
        Self { memory, windows: Vec::new() }
    }

    fn map(&self, base: PhysAddr, bytes: usize) -> Option<Window<M::Pages>> {
        let lead = base.page_offset() as usize;
        let length = lead.checked_add(bytes)?.checked_next_multiple_of(PAGE_SIZE as usize)?;
        base.page().checked_add(length as u64)?;
        Some(Window { base, bytes, pages: self.memory.map(base.page(), length)?, lead })
    }

    /// Where a register of type `T` is: `None` past the end of the window, and where it would not be
    /// aligned.
    fn register<T>(&self, window: RegisterWindow, offset: usize) -> Option<NonNull<T>> {
        let window = self.windows.get(window.0 as usize)?;
        if offset.checked_add(size_of::<T>())? > window.bytes {
            return None;
        }
        // SAFETY: lead + bytes is at most the length of the pages, which are one mapping.
        let register = unsafe { M::start(&window.pages).add(window.lead + offset) }.cast();
        register.is_aligned().then_some(register)
    }

    fn read<T>(&self, window: RegisterWindow, offset: usize) -> Option<T> {
        let register = self.register::<T>(window, offset)?;
        // SAFETY: aligned, and in memory that is mapped as long as `self` lives; u32 and u64, the only
        // types that this is called with, have no invalid values.
        Some(unsafe { register.read_volatile() })
    }

    fn write<T>(&self, window: RegisterWindow, offset: usize, value: T) {
        if let Some(register) = self.register::<T>(window, offset) {
            // SAFETY: aligned, and in memory that is mapped for writing as long as `self` lives; device
            // memory is no part of any Rust object.
            unsafe { register.write_volatile(value) };
        }
    }
}

impl<M: MapRegisters> Registers for RegisterWindows<M> {
    fn map_registers(
        &mut self,
        base: PhysAddr,
        bytes: usize,
    ) -> Result<RegisterWindow, PlatformError> {
        let same = |window: &Window<M::Pages>| window.base == base && window.bytes == bytes;
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

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use super::*;

    /// Words instead of device memory, and what was asked for.
    #[derive(Default)]
    struct Words {
        asked: RefCell<Vec<(u64, usize)>>,
    }

    // SAFETY: what is returned is leaked.
    unsafe impl MapRegisters for Words {
        type Pages = NonNull<u8>;

        fn map(&self, base: PhysAddr, bytes: usize) -> Option<NonNull<u8>> {
            self.asked.borrow_mut().push((base.get(), bytes));
            let words: &mut [u64] = Vec::leak(vec![0; bytes / 8]);
            Some(NonNull::from(words).cast())
        }

        fn start(pages: &NonNull<u8>) -> NonNull<u8> {
            *pages
        }
    }

    #[test]
    fn whole_pages_are_mapped_once_for_a_window() {
        let mut windows = RegisterWindows::new(Words::default());
        let base = PhysAddr::new(0xfed9_0ff8);
        let first = windows.map_registers(base, 16).unwrap();
        assert_eq!(windows.map_registers(base, 16).unwrap(), first);
        assert_ne!(windows.map_registers(base, 8).unwrap(), first);
        assert_eq!(windows.memory.asked.borrow()[..], [(0xfed9_0000, 8192), (0xfed9_0000, 4096)]);
        windows.write64(first, 8, 7);
        assert_eq!((windows.read64(first, 0), windows.read64(first, 8)), (0, 7));
    }

    #[test]
    fn r5_an_access_outside_the_window_reads_ones_and_writes_nothing() {
        let mut windows = RegisterWindows::new(Words::default());
        let window = windows.map_registers(PhysAddr::new(0x1000), 16).unwrap();
        for offset in [2, 12, 16, usize::MAX] {
            windows.write64(window, offset, 7);
            assert_eq!(windows.read64(window, offset), u64::MAX, "{offset}");
        }
        assert_eq!((windows.read64(window, 0), windows.read64(window, 8)), (0, 0));
        assert_eq!(windows.read32(RegisterWindow(1), 0), u32::MAX);
        for (base, bytes) in [(u64::MAX, 16), (0x1000, usize::MAX)] {
            assert!(
                windows.map_registers(PhysAddr::new(base), bytes).is_err(),
                "{base:#x} {bytes}"
            );
        }
    }
}
