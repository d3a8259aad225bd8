//! A scatter list.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;

use super::contents::Contents;
use super::merge::Segment;
use super::piece::{Piece, Slice};
use crate::direction::{DeviceWrites, Direction, ToDevice};
use crate::io_address::IoAddress;
use crate::protocol::Error;
use crate::stream::{
    CpuMay, CpuOwned, DeviceOwned, HasAddress, Origin, Owner, Refused, Step, Stream, StreamBuffer,
    Synced,
};

/// Memory in pieces that is one transfer of the device's: Linux's `struct sg_table`.
///
/// Pieces are streaming buffers, given or lent, parts of them, and slices, of which the device reaches copies. Mapped, they
/// are as few [segments](Self::segments) as the stream's [`Limits`](crate::Limits) allow: slices that follow each other are
/// copied into one piece of memory; what lies side by side for the device is one segment; and what is too long, or crosses a
/// boundary, is several. Whose turn it is, is in the type, as for a [`StreamBuffer`].
///
/// | Linux | here |
/// | --- | --- |
/// | `dma_map_sg`, `dma_map_sgtable` | [`map`](Self::map) |
/// | `dma_unmap_sg`, `dma_unmap_sgtable` | [`unmap`](Self::unmap) |
/// | `dma_sync_sg_for_cpu`, `_for_device` | [`sync_for_cpu`](Self::sync_for_cpu), [`sync_for_device`](Self::sync_for_device) |
/// | `sg_dma_address`, `sg_dma_len`, `for_each_sgtable_dma_sg` | [`segments`](Self::segments) |
/// | `sg_copy_to_buffer`, `sg_pcopy_to_buffer` | [`read`](Self::read) |
///
/// In windows, all of that is no request to iommud, and a list that is [cleared](Self::clear) and used again
/// allocates nothing. What is in no window is mapped by one request, and unmapped by one.
///
/// Dropped while it is the device's, it is unmapped. Forgotten, what was lent to it is the device's still: nobody can read,
/// write or map it before it is [taken back](StreamBuffer::take_back).
///
/// ```
/// use libdma::{Limits, ScatterList, ToDevice};
///
/// let machine = simulated::Machine::vtd();
/// let mut device = machine.open();
/// device.set_limits(Limits::NONE.max_segment(4096));
/// let stream = device.stream::<ToDevice>("write");
/// let payload = stream.copy_of(&[7; 6000])?;
///
/// let mut list = ScatterList::new(&stream);
/// list.push_slice(b"header ")?;
/// list.push_slice(b"of two slices")?;
/// list.push(payload)?;
/// let list = list.map()?;
/// let lengths: Vec<u64> = list.segments().iter().map(|it| it.bytes).collect();
/// assert_eq!(lengths, [20, 4096, 1904]);
/// assert_eq!(machine.device_reads(list.segments()[0].iova, 20), Ok(b"header of two slices".to_vec()));
/// drop(list.unmap()?);
/// # Ok::<(), libdma::Error>(())
/// ```
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::ScatterList<libdma::ToDevice>>();
/// ```
#[must_use = "dropped, it is unmapped, and its addresses mean nothing any more"]
pub struct ScatterList<'a, D: Direction, O: Owner = CpuOwned> {
    contents: Contents<'a, D>,
    of: PhantomData<fn() -> O>,
}

impl<'a, D: Direction> ScatterList<'a, D, CpuOwned> {
    /// An empty list, of memory within this stream's limits.
    pub fn new(stream: &Stream<D>) -> Self {
        Self { contents: Contents::new(stream.terms().clone()), of: PhantomData }
    }

    /// Puts a buffer behind what is in it.
    ///
    /// # Errors
    ///
    /// With the buffer: [`Error::WrongOwner`] if it is of another device; [`Error::OtherTerms`] if it is of a stream with a
    /// higher limit, or strict where this one is not, or the other way round; [`Error::OfDevice`] if it is [the device's
    /// still](StreamBuffer::take_back).
    #[inline]
    pub fn push(&mut self, buffer: StreamBuffer<D>) -> Step<(), StreamBuffer<D>> {
        let all = 0..buffer.len();
        self.push_range(buffer, all)
    }

    /// Puts a part of a buffer behind what is in it.
    ///
    /// # Errors
    ///
    /// With the buffer: as [`push`](Self::push), [`Error::OutOfBuffer`], [`Error::ZeroSize`].
    #[inline]
    pub fn push_range(
        &mut self,
        buffer: StreamBuffer<D>,
        range: Range<usize>,
    ) -> Step<(), StreamBuffer<D>> {
        if let Err(error) = self.check(&buffer, &range) {
            return Err(Refused::new(error, buffer));
        }
        self.contents.push(Piece::Given(buffer, range));
        Ok(())
    }

    /// Puts a part of a buffer behind what is in it, that it has for as long as the list is there.
    ///
    /// # Errors
    ///
    /// As [`push_range`](Self::push_range).
    pub fn lend(
        &mut self,
        buffer: &'a mut StreamBuffer<D>,
        range: Range<usize>,
    ) -> Result<(), Error> {
        self.check(buffer, &range)?;
        self.contents.push(Piece::Lent(buffer, range));
        Ok(())
    }

    #[inline]
    fn check(&self, buffer: &StreamBuffer<D>, range: &Range<usize>) -> Result<(), Error> {
        if range.start > range.end || range.end > buffer.len() {
            return Err(Error::OutOfBuffer);
        }
        if range.is_empty() {
            return Err(Error::ZeroSize);
        }
        buffer.check_turn()?;
        self.contents.terms.check_suit(buffer.terms())
    }

    fn push_origin(&mut self, origin: Origin<'a>) -> Result<(), Error> {
        if origin.bytes().is_empty() {
            return Err(Error::ZeroSize);
        }
        self.contents.push(Piece::Slice(Slice { origin, memory: None }));
        Ok(())
    }

    /// Gives the buffers back that it was given, in their order, and forgets everything else. The list's own memory is kept
    /// for the next use.
    pub fn clear(&mut self) -> impl Iterator<Item = StreamBuffer<D>> {
        self.contents.drain().filter_map(|piece| match piece {
            Piece::Given(buffer, _) => Some(buffer),
            Piece::Lent(..) | Piece::Slice(_) => None,
        })
    }

    /// An empty list in this one's memory, for pieces of another lifetime. What was given to this one is dropped: [`clear`](Self::clear)
    /// gives it back.
    pub fn emptied<'b>(mut self) -> ScatterList<'b, D, CpuOwned> {
        ScatterList { contents: self.contents.emptied(), of: PhantomData }
    }

    /// Makes all of it the device's, or nothing (rule R7): Linux's `dma_map_sg`.
    ///
    /// # Errors
    ///
    /// With the list as it was: [`Error::ZeroSize`] if it is empty; [`Error::BatchTooLarge`] if more than
    /// [`MAX_BATCH`](crate::protocol::MAX_BATCH), 128, of its pieces are in no window, for one request takes no more: make it
    /// several lists, or of memory in windows, which slices and [`Stream::buffer`] are in unless the stream is strict; as [`Device::map`](crate::Device::map) for
    /// those, and as [`Device::allocate`](crate::Device::allocate) for the copies of slices.
    #[track_caller]
    pub fn map(mut self) -> Step<ScatterList<'a, D, DeviceOwned>, Self> {
        match self.contents.map() {
            Ok(()) => Ok(self.turn()),
            Err(error) => Err(Refused::new(error, self)),
        }
    }
}

impl<'a> ScatterList<'a, ToDevice, CpuOwned> {
    /// Puts a slice behind what is in it.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`].
    pub fn push_slice(&mut self, slice: &'a [u8]) -> Result<(), Error> {
        self.push_origin(Origin::Shared(slice))
    }
}

impl<'a, D: DeviceWrites> ScatterList<'a, D, CpuOwned> {
    /// Puts a slice behind what is in it, which the device may write.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroSize`].
    pub fn push_slice_mut(&mut self, slice: &'a mut [u8]) -> Result<(), Error> {
        self.push_origin(Origin::Exclusive(slice))
    }
}

impl<'a, D: Direction> ScatterList<'a, D, DeviceOwned> {
    /// The CPU's turn: Linux's `dma_sync_sg_for_cpu`. What the device wrote is in the buffers and slices then, and can be
    /// [read](Self::read).
    ///
    /// ```
    /// use libdma::{FromDevice, ScatterList};
    ///
    /// # let machine = simulated::Machine::amdvi();
    /// # let device = machine.open();
    /// let stream = device.stream::<FromDevice>("rx");
    /// let mut header = [0; 14];
    /// let mut list = ScatterList::new(&stream);
    /// list.push_slice_mut(&mut header)?;
    /// list.push(stream.buffer(1500)?)?;
    /// let list = list.map()?;
    /// // The device fills it in ...
    /// # machine.device_writes(list.segments()[0].iova, b"to: us, first ").unwrap();
    /// let list = list.sync_for_cpu();
    /// let mut first = [0; 13];
    /// list.read(0, &mut first)?;
    /// assert_eq!(&first, b"to: us, first");
    ///
    /// // ... and once more, at the same addresses.
    /// let list = list.sync_for_device();
    /// # machine.device_writes(list.segments()[0].iova, b"to: us, second").unwrap();
    /// drop(list.unmap()?);
    /// assert_eq!(&header, b"to: us, second");
    /// # Ok::<(), libdma::Error>(())
    /// ```
    pub fn sync_for_cpu(mut self) -> ScatterList<'a, D, Synced> {
        self.contents.sync_for_cpu();
        self.turn()
    }
}

impl<'a, D: Direction> ScatterList<'a, D, Synced> {
    /// The device's turn again: Linux's `dma_sync_sg_for_device`.
    pub fn sync_for_device(mut self) -> ScatterList<'a, D, DeviceOwned> {
        self.contents.sync_for_device();
        self.turn()
    }
}

impl<'a, D: Direction, O: HasAddress> ScatterList<'a, D, O> {
    /// Where the device sees it, in as few pieces as its limits allow.
    pub fn segments(&self) -> &[Segment] {
        self.contents.segments()
    }

    /// The same as addresses that know which device they are of.
    pub fn io_addresses(&self) -> impl ExactSizeIterator<Item = IoAddress<'_>> {
        let session = self.contents.terms.session();
        self.segments().iter().map(|it| IoAddress::new(session, it.iova, it.bytes))
    }

    /// Makes all of it the CPU's again, or nothing: Linux's `dma_unmap_sg`. What is in no window the device can reach no
    /// more when this returns (rule R2).
    ///
    /// # Errors
    ///
    /// With the list as it was: as [`Device::unmap`](crate::Device::unmap); in windows never.
    #[track_caller]
    pub fn unmap(mut self) -> Step<ScatterList<'a, D, CpuOwned>, Self> {
        match self.contents.unmap() {
            Ok(()) => {
                for mark in self.contents.marks.drain(..) {
                    mark.given_back();
                }
                Ok(self.turn())
            }
            Err(error) => Err(Refused::new(error, self)),
        }
    }
}

impl<D: Direction, O: CpuMay> ScatterList<'_, D, O> {
    /// Copies bytes out, from `offset` in all of it on: Linux's `sg_pcopy_to_buffer`.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`], with nothing copied.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        match offset.checked_add(out.len()) {
            Some(end) if end <= self.len() => {}
            _ => return Err(Error::OutOfBuffer),
        }
        let (mut skip, mut rest) = (offset, out);
        for piece in self.contents.pieces() {
            let here = piece.len().saturating_sub(skip).min(rest.len());
            let (now, later) = rest.split_at_mut(here);
            piece.read(skip, now)?;
            skip = skip.saturating_sub(piece.len());
            rest = later;
        }
        Ok(())
    }
}

impl<'a, D: Direction, O: Owner> ScatterList<'a, D, O> {
    /// How many bytes there are in all.
    pub fn len(&self) -> usize {
        self.contents.pieces().iter().map(Piece::len).sum()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.contents.pieces().is_empty()
    }

    fn turn<P: Owner>(self) -> ScatterList<'a, D, P> {
        ScatterList { contents: self.contents, of: PhantomData }
    }
}

impl<D: Direction, O: Owner> fmt::Debug for ScatterList<'_, D, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScatterList")
            .field("device", &self.contents.terms.session().address())
            .field("bytes", &self.len())
            .field("segments", &self.contents.segments())
            .finish()
    }
}
