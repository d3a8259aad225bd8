//! Unmaps that are gathered, so that many are one request.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::batch;
use super::{DeviceOwned, StreamBuffer, Terms};
use crate::direction::Direction;
use crate::protocol::{Error, MAX_BATCH};

/// Unmaps that are gathered, so that many are one request and one invalidation.
///
/// What is gathered is still the device's, by its type and in fact: it is the caller's again when [`take`](Self::take)
/// gives it back, which is after the flush (rule R2).
///
/// ```
/// use libdma::ToDevice;
///
/// let machine = simulated::Machine::amdvi();
/// let stream = machine.open().stream::<ToDevice>("tx").strict();
/// let mut done = stream.gather(32);
/// for _ in 0..64 {
///     done.unmap_later(stream.buffer(1500)?.map()?)?;     // two requests for all
/// }
/// while let Some(buffer) = done.take() {
///     assert_eq!(buffer.len(), 1500);
/// }
/// # Ok::<(), libdma::Error>(())
/// ```
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::stream::Gather<libdma::ToDevice>>();
/// ```
#[derive(Debug)]
pub struct Gather<D: Direction> {
    terms: Arc<Terms>,
    count: usize,
    waiting: Vec<StreamBuffer<D, DeviceOwned>>,
    unmapped: Vec<StreamBuffer<D>>,
}

impl<D: Direction> Gather<D> {
    pub(super) fn new(terms: Arc<Terms>, count: usize) -> Self {
        let count = count.clamp(1, MAX_BATCH);
        let (waiting, unmapped) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Self { terms, count, waiting, unmapped }
    }

    /// Unmaps a buffer with the next flush, which is at once if as many are gathered as may be. In a window there is
    /// nothing to wait for.
    ///
    /// # Errors
    ///
    /// Of the flush; the buffer is gathered, and its turn comes with the next. [`Error::WrongOwner`] for a buffer of another
    /// device, which is dropped, and unmapped by that.
    #[track_caller]
    pub fn unmap_later(&mut self, buffer: StreamBuffer<D, DeviceOwned>) -> Result<(), Error> {
        self.terms.check_device(&buffer.terms)?;
        if buffer.is_in_window() {
            self.unmapped.push(buffer.into_unmapped());
            return Ok(());
        }
        self.waiting.push(buffer);
        if self.waiting.len() >= self.count { self.flush() } else { Ok(()) }
    }

    /// Unmaps all that is gathered, by one request for each [`MAX_BATCH`]. When it returns, the device can reach nothing of
    /// strict streams' any more.
    ///
    /// # Errors
    ///
    /// As [`Device::unmap`](crate::Device::unmap): what was not unmapped is gathered still.
    #[track_caller]
    pub fn flush(&mut self) -> Result<(), Error> {
        while !self.waiting.is_empty() {
            let first = self.waiting.len().saturating_sub(MAX_BATCH);
            let Some(last) = self.waiting.get_mut(first..) else { break };
            let mut pieces: Vec<_> = last.iter_mut().filter_map(|it| it.piece(false)).collect();
            batch::unmap(&self.terms, &mut pieces)?;
            drop(pieces);
            for buffer in self.waiting.drain(first..) {
                self.unmapped.push(buffer.into_unmapped());
            }
        }
        Ok(())
    }

    /// One that is unmapped, and the caller's again.
    pub fn take(&mut self) -> Option<StreamBuffer<D>> {
        self.unmapped.pop()
    }

    /// How many wait to be unmapped.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

impl<D: Direction> Drop for Gather<D> {
    fn drop(&mut self) {
        // What cannot be unmapped ends as each buffer ends that is dropped while it is mapped: iommud does not use its
        // memory again before the hardware has confirmed.
        let _ = self.flush();
    }
}
