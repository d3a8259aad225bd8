//! The CPU's turn with a part of a buffer that is the device's.

use core::ops::Range;
use core::sync::atomic::{Ordering, fence};

use super::memory::Memory;
use super::{DeviceOwned, StreamBuffer};
use crate::direction::{DeviceReads, Direction};
use crate::extent::Extent;
use crate::protocol::Error;

/// The CPU's turn with a part of a buffer, of which the rest stays the device's. When it is dropped, it is the device's
/// turn again; forgotten, only that is forgotten.
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::stream::SyncedRange<libdma::ToDevice>>();
/// ```
#[derive(Debug)]
#[must_use = "dropped, it is the device's turn again"]
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
        self.extent()?.read(offset, out)
    }

    fn extent(&self) -> Result<Extent<'_>, Error> {
        let whole = self.buffer.extent();
        whole.part(self.range.start, self.range.len()).ok_or(Error::OutOfBuffer)
    }
}

impl<D: DeviceReads> SyncedRange<'_, D> {
    /// Copies bytes in, from `offset` in the range on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] beyond the range, with nothing copied.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), Error> {
        self.extent()?.write(offset, data)?;
        self.changed = true;
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
