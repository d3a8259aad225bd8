//! A window of registers for tests: memory that remembers what was written, and how wide.

use alloc::vec;
use alloc::vec::Vec;

use dma_types::PhysAddr;

use crate::platform::{PlatformError, RegisterWindow, Registers};

/// One window, which starts as zeroes.
pub(crate) struct FakeRegisters {
    bytes: Vec<u8>,
    /// Every write: offset, width in bytes, value.
    pub(crate) writes: Vec<(usize, usize, u64)>,
}

/// The only window there is.
pub(crate) const WINDOW: RegisterWindow = RegisterWindow(0);

impl FakeRegisters {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], writes: Vec::new() }
    }

    /// A unit that says this of itself.
    pub(crate) fn unit(version: u32, capability: u64, extended: u64) -> Self {
        let mut fake = Self::new(0x1000);
        fake.set(0x00, &version.to_le_bytes());
        fake.set(0x08, &capability.to_le_bytes());
        fake.set(0x10, &extended.to_le_bytes());
        fake
    }

    /// Puts bytes where hardware would.
    pub(crate) fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        match self.bytes.get(offset..offset + N) {
            Some(bytes) => bytes.try_into().unwrap(),
            None => [0xff; N],
        }
    }
}

impl Registers for FakeRegisters {
    fn map_registers(&mut self, _: PhysAddr, _: usize) -> Result<RegisterWindow, PlatformError> {
        Ok(WINDOW)
    }

    fn read32(&mut self, _: RegisterWindow, offset: usize) -> u32 {
        u32::from_le_bytes(self.get(offset))
    }

    fn write32(&mut self, _: RegisterWindow, offset: usize, value: u32) {
        self.writes.push((offset, 4, value.into()));
    }

    fn read64(&mut self, _: RegisterWindow, offset: usize) -> u64 {
        u64::from_le_bytes(self.get(offset))
    }

    fn write64(&mut self, _: RegisterWindow, offset: usize, value: u64) {
        self.writes.push((offset, 8, value));
    }
}
