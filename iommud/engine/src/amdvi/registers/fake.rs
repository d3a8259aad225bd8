//! A window of registers for tests: memory that remembers what was written.

use alloc::vec;
use alloc::vec::Vec;

use dma_types::PhysAddr;

use super::REGISTER_BYTES;
use crate::platform::{PlatformError, RegisterWindow, Registers};

/// One window, which starts as zeroes.
pub(crate) struct FakeRegisters {
    words: Vec<u64>,
    /// Every write: offset and value.
    pub(crate) writes: Vec<(usize, u64)>,
}

/// The only window there is.
pub(crate) const WINDOW: RegisterWindow = RegisterWindow(0);

impl FakeRegisters {
    pub(crate) fn new() -> Self {
        Self { words: vec![0; REGISTER_BYTES / 8], writes: Vec::new() }
    }

    /// Puts a word where hardware would.
    pub(crate) fn set(&mut self, offset: usize, word: u64) {
        self.words[offset / 8] = word;
    }
}

impl Registers for FakeRegisters {
    fn map_registers(&mut self, _: PhysAddr, _: usize) -> Result<RegisterWindow, PlatformError> {
        Ok(WINDOW)
    }

    fn read32(&mut self, _: RegisterWindow, _: usize) -> u32 {
        unreachable!("every register has 64 bits")
    }

    fn write32(&mut self, _: RegisterWindow, _: usize, _: u32) {
        unreachable!("every register has 64 bits")
    }

    fn read64(&mut self, _: RegisterWindow, offset: usize) -> u64 {
        self.words.get(offset / 8).copied().unwrap_or(u64::MAX)
    }

    fn write64(&mut self, _: RegisterWindow, offset: usize, value: u64) {
        self.writes.push((offset, value));
    }
}
