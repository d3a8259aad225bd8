//! The CPU's turn with a part of a buffer that is the device's.

use core::ops::Range;
use core::sync::atomic::{Ordering, fence};

use super::memory::Memory;
use super::{DeviceOwned, StreamBuffer};
use crate::copy;
use crate::direction::{DeviceReads, Direction};
use crate::protocol::Error;

/// The CPU's turn with a part of a buffer, of which the rest stays the device's. When it is dropped, it is the device's
/// turn again; forgotten, only that is forgotten.
#[derive(Debug)]
pub struct SyncedRange<'b, D: Direction> {
    buffer: &'b mut StreamBuffer<D, DeviceOwned>,
    range: Range<usize>,
    changed: bool,
}

impl<'b, D: Direction> SyncedRange<'b, D> {
    /// Of a range that lies in the buffer.
    pub(super) fn new(buffer: &'b mut StreamBuffer<D, DeviceOwned>, range: Range<usize>) -> Self {
        Self { buffer, range, changed: false }
    }

    /// Copies bytes out, from `offset` in the range on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] beyond the range, with nothing copied.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        let place = self.buffer.place(self.within(offset, out.len())?, out.len())?;
        // SAFETY: `place` checked the range.
        unsafe { copy::copy_out(place, out) };
        Ok(())
    }

    fn within(&self, offset: usize, bytes: usize) -> Result<usize, Error> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.range.len() => Ok(self.range.start + offset),
            _ => Err(Error::OutOfBuffer),
        }
    }
}

impl<D: DeviceReads> SyncedRange<'_, D> {
    /// Copies bytes in, from `offset` in the range on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] beyond the range, with nothing copied.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), Error> {
        let place = self.buffer.place(self.within(offset, data.len())?, data.len())?;
        self.changed = true;
        // SAFETY: `place` checked the range.
        unsafe { copy::copy_in(place, data) };
        Ok(())
    }
}

impl<D: Direction> Drop for SyncedRange<'_, D> {
    fn drop(&mut self) {
        if let (Memory::Pages(pages), true) = (&self.buffer.memory, self.changed) {
            pages.copy_to_device(self.range.start, self.range.len());
        }
        fence(Ordering::Release);
    }
}
