//! Unmaps that are gathered, so that many are one request.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::batch;
use super::{DeviceOwned, Refused, StreamBuffer, Terms};
use crate::direction::Direction;
use crate::protocol::{Error, MAX_BATCH};

/// Unmaps that are gathered, so that many are one request and one invalidation.
///
/// What is gathered is still the device's, by its type and in fact: it is the caller's again when [`take`](Self::take)
/// gives it back, which is after the flush (rule R2). Those that were given first come back first, but that what lies in a
/// window waits for no flush.
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
#[must_use = "dropped, it unmaps what was gathered, and gives that back"]
pub struct Gather<D: Direction> {
    terms: Arc<Terms>,
    count: usize,
    waiting: Vec<StreamBuffer<D, DeviceOwned>>,
    unmapped: VecDeque<StreamBuffer<D>>,
}

/// Why [`Gather::unmap_later`] failed, and whose the buffer is now. `?` turns it into its [`Error`].
///
/// ```
/// use libdma::stream::NotUnmapped;
/// use libdma::{Error, ToDevice};
///
/// # let machine = simulated::Machine::vtd();
/// # let (disk, card) = (machine.open(), machine.open_at(simulated::second_edu())?);
/// let mut done = disk.stream::<ToDevice>("sectors").gather(32);
/// let packet = card.stream::<ToDevice>("tx").copy_of(b"packet")?.map()?;
/// match done.unmap_later(packet) {
///     // It is as it was, and the caller's to unmap otherwise.
///     Err(NotUnmapped::Refused(refused)) => {
///         assert_eq!(refused.error, Error::WrongOwner);
///         drop(refused.into_kept().unmap()?);
///     }
///     // It is gathered, and still the device's: `done.flush()` tries again.
///     Err(NotUnmapped::NotFlushed(error)) => return Err(error),
///     Ok(()) => {}
/// }
/// # Ok::<(), Error>(())
/// ```
pub enum NotUnmapped<D: Direction> {
    /// The buffer was not taken.
    Refused(Refused<StreamBuffer<D, DeviceOwned>>),
    /// The buffer was taken, but the flush failed that was due with it. It waits with the others for the next.
    NotFlushed(Error),
}

impl<D: Direction> From<NotUnmapped<D>> for Error {
    fn from(why: NotUnmapped<D>) -> Self {
        match why {
            NotUnmapped::Refused(refused) => refused.error,
            NotUnmapped::NotFlushed(error) => error,
        }
    }
}

impl<D: Direction> fmt::Debug for NotUnmapped<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => f.debug_tuple("Refused").field(&refused.error).finish(),
            Self::NotFlushed(error) => f.debug_tuple("NotFlushed").field(error).finish(),
        }
    }
}

impl<D: Direction> fmt::Display for NotUnmapped<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            Self::NotFlushed(error) => write!(f, "what was gathered is not unmapped yet: {error}"),
        }
    }
}

impl<D: Direction> core::error::Error for NotUnmapped<D> {}

impl<D: Direction> Gather<D> {
    pub(super) fn new(terms: Arc<Terms>, count: usize) -> Self {
        let count = count.clamp(1, MAX_BATCH);
        let (waiting, unmapped) = (Vec::with_capacity(count), VecDeque::with_capacity(count));
        Self { terms, count, waiting, unmapped }
    }

    /// Unmaps a buffer with the next flush, which is at once if as many are gathered as may be. In a window there is
    /// nothing to wait for.
    ///
    /// # Errors
    ///
    /// [`NotUnmapped::Refused`] with a buffer of another device ([`Error::WrongOwner`]), which is as it was;
    /// [`NotUnmapped::NotFlushed`] if the flush failed: the buffer is gathered, and its turn comes with the next.
    #[track_caller]
    pub fn unmap_later(
        &mut self,
        buffer: StreamBuffer<D, DeviceOwned>,
    ) -> Result<(), NotUnmapped<D>> {
        if let Err(error) = self.terms.check_device(&buffer.terms) {
            return Err(NotUnmapped::Refused(Refused::new(error, buffer)));
        }
        if buffer.is_in_window() {
            self.unmapped.push_back(buffer.into_unmapped());
            return Ok(());
        }
        self.waiting.push(buffer);
        match self.waiting.len() < self.count {
            true => Ok(()),
            false => self.flush().map_err(NotUnmapped::NotFlushed),
        }
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
            let batch = self.waiting.len().min(MAX_BATCH);
            let first = self.waiting.iter_mut().take(batch);
            let mut pieces = batch::collected(batch, first.filter_map(|it| it.piece(false)));
            batch::unmap(&self.terms, &mut pieces)?;
            drop(pieces);
            for buffer in self.waiting.drain(..batch) {
                self.unmapped.push_back(buffer.into_unmapped());
            }
        }
        Ok(())
    }

    /// One that is unmapped, and the caller's again: the one that has been for longest.
    pub fn take(&mut self) -> Option<StreamBuffer<D>> {
        self.unmapped.pop_front()
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

impl<D: Direction> fmt::Debug for Gather<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { terms, count: _, waiting, unmapped } = self;
        f.debug_struct("Gather")
            .field("device", &terms.session().address())
            .field("waiting", waiting)
            .field("unmapped", unmapped)
            .finish()
    }
}
