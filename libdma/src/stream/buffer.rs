//! A streaming buffer: memory that CPU and device take turns with.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;
use core::mem;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use dma_types::Iova;

use super::batch::{self, Piece};
use super::memory::{Memory, Pages};
use super::{
    CpuMay, CpuOwned, DeviceOwned, HasAddress, Owner, Refused, Step, Synced, SyncedRange, Terms,
};
use crate::check::{self, Kind, Mark};
use crate::copy;
#[cfg(target_pointer_width = "64")]
use crate::direction::Bidirectional;
use crate::direction::Direction;
use crate::extent::Extent;
use crate::io_address::IoAddress;
use crate::protocol::Error;
use crate::shown;

/// Memory that CPU and device take turns with; whose turn it is, is in its type.
///
/// | from | to | by | Linux |
/// | --- | --- | --- | --- |
/// | [`CpuOwned`] | [`DeviceOwned`] | [`map`](Self::map) | `dma_map_single`, `dma_map_page` |
/// | [`DeviceOwned`] | [`Synced`] | [`sync_for_cpu`](Self::sync_for_cpu) | `dma_sync_single_for_cpu` |
/// | [`Synced`] | [`DeviceOwned`] | [`sync_for_device`](Self::sync_for_device) | `dma_sync_single_for_device` |
/// | [`DeviceOwned`], a range | itself, later | [`sync_range_for_cpu`](Self::sync_range_for_cpu) | `dma_sync_single_range_for_cpu`, `_for_device` |
/// | [`DeviceOwned`] or [`Synced`] | [`CpuOwned`] | [`unmap`](Self::unmap) | `dma_unmap_single` |
///
/// What is the device's can neither be read nor written:
///
/// ```compile_fail,E0599
/// # fn f(buffer: libdma::StreamBuffer<libdma::FromDevice, libdma::stream::DeviceOwned>) {
/// buffer.read(0, &mut [0; 4]);
/// # }
/// ```
///
/// ```compile_fail,E0382
/// # fn f(buffer: libdma::StreamBuffer<libdma::ToDevice>) -> Result<(), libdma::Error> {
/// let mapped = buffer.map()?;
/// buffer.read(0, &mut [0; 4])?;
/// # Ok(())
/// # }
/// ```
///
/// and what is the CPU's has no address to give to the device:
///
/// ```compile_fail,E0599
/// # fn f(buffer: libdma::StreamBuffer<libdma::FromDevice>) {
/// buffer.iova();
/// # }
/// ```
///
/// What was lent to a [`ScatterList`](crate::ScatterList) that was forgotten while it was mapped is the device's, but the
/// CPU's by its type. All that would touch it is refused then with [`Error::OfDevice`], until it is
/// [taken back](Self::take_back).
///
/// The memory stays the device's in hardware for as long as its window, when it is dropped or forgotten too; see
/// [`Stream`](super::Stream).
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::StreamBuffer<libdma::ToDevice>>();
/// ```
///
/// While it is mapped its address is good, and no longer. Let it live for as long as the device has that:
///
/// ```compile_fail,E0716
/// # fn f(stream: libdma::Stream<libdma::ToDevice>) -> Result<(), libdma::Error> {
/// let address = stream.copy_of(b"packet")?.map()?.io_address();      // It is dropped here, ...
/// println!("{address:?}");                                           // ... and its address is nobody's.
/// # Ok(())
/// # }
/// ```
#[must_use = "dropped, it is unmapped and given back, and its address means nothing any more"]
pub struct StreamBuffer<D: Direction, O: Owner = CpuOwned> {
    pub(super) memory: Memory,
    length: Length,
    pub(super) terms: Arc<Terms>,
    /// From when it becomes the device's until it is the CPU's again.
    mark: Mark,
    /// As long as there is memory, if that has no mark itself.
    memory_mark: Mark,
    of: PhantomData<fn() -> (D, O)>,
}

/// How many bytes a buffer is, and whether a list that it is lent to has given it to the device. While that list is there
/// nobody sees it; afterwards it is only where the list was forgotten. It is one word, which compilers move in one step.
#[derive(Clone, Copy)]
struct Length(usize);

impl Length {
    /// No memory is as long as this.
    const AWAY: usize = 1 << (usize::BITS - 1);

    #[inline]
    fn new(bytes: usize) -> Self {
        Self(bytes & !Self::AWAY)
    }

    #[inline]
    fn bytes(self) -> usize {
        self.0 & !Self::AWAY
    }

    #[inline]
    fn is_away(self) -> bool {
        self.0 & Self::AWAY != 0
    }

    #[inline]
    fn away(self, is_away: bool) -> Self {
        Self(self.bytes() | if is_away { Self::AWAY } else { 0 })
    }
}

// Each step of one moves it.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<StreamBuffer<Bidirectional>>() == 64);

impl<D: Direction> StreamBuffer<D, CpuOwned> {
    pub(super) fn new(memory: Memory, memory_mark: Mark, len: usize, terms: Arc<Terms>) -> Self {
        let (mark, length) = (Mark::default(), Length::new(len));
        Self { memory, length, terms, mark, memory_mark, of: PhantomData }
    }

    /// Makes it the device's: Linux's `dma_map_single`. In a window that is a matter of types; else it is a request to
    /// iommud.
    ///
    /// # Errors
    ///
    /// With the buffer as it was: [`Error::SegmentTooLong`] if it is longer than one segment may be (a
    /// [`ScatterList`](crate::ScatterList) takes it in several); [`Error::OfDevice`] if it is [the device's
    /// still](Self::take_back); and, if it is not in a window, as [`Device::map`](crate::Device::map).
    #[track_caller]
    #[inline]
    pub fn map(self) -> Step<StreamBuffer<D, DeviceOwned>, Self> {
        match self.memory {
            Memory::Window(_) if check::is_known_off() && self.check_single().is_ok() => {
                Ok(self.hand_over())
            }
            _ => self.map_otherwise(),
        }
    }

    /// The same where there is more to be done than to say so. It is moved here: who has memory in a window needs no place for
    /// it, as who lends it would.
    #[track_caller]
    #[inline(never)]
    fn map_otherwise(mut self) -> Step<StreamBuffer<D, DeviceOwned>, Self> {
        match self.map_here() {
            Ok(()) => Ok(self.hand_over()),
            Err(error) => Err(Refused::new(error, self)),
        }
    }

    /// Makes it the device's where it is.
    #[track_caller]
    #[inline]
    fn map_here(&mut self) -> Result<(), Error> {
        self.check_single()?;
        if let Memory::Pages(pages) = &mut self.memory {
            let mut piece = Piece { pages, bytes: self.length.bytes(), single: true };
            batch::map_one(&self.terms, D::ACCESS, &mut piece)?;
        }
        self.mark_mapped();
        Ok(())
    }

    /// Takes it back from the device that has it by a [`ScatterList`](crate::ScatterList) which it was
    /// [lent](crate::ScatterList::lend) to and which was forgotten while it was mapped. What else the list had is lost, and
    /// this is as after the list's [`unmap`](crate::ScatterList::unmap). Any other buffer stays as it is.
    ///
    /// ```
    /// use libdma::{Error, FromDevice, ScatterList};
    ///
    /// # let machine = simulated::Machine::vtd();
    /// # let device = machine.open();
    /// let stream = device.stream::<FromDevice>("rx").strict();
    /// let mut buffer = stream.buffer(64)?;
    /// let mut list = ScatterList::new(&stream);
    /// list.lend(&mut buffer, 0..64)?;
    /// let list = list.map()?;
    /// # let segment = list.segments()[0].iova;
    /// core::mem::forget(list);
    /// # machine.device_writes(segment, &[1; 4]).unwrap();
    /// assert_eq!(buffer.read(0, &mut [0; 4]), Err(Error::OfDevice));
    /// buffer.take_back()?;
    /// assert_eq!(buffer.read(0, &mut [0; 4]), Ok(()));
    /// # assert!(machine.device_writes(segment, &[1; 4]).is_err());
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`unmap`](Self::unmap), with the buffer as it was.
    #[track_caller]
    pub fn take_back(&mut self) -> Result<(), Error> {
        if !self.length.is_away() {
            return Ok(());
        }
        if let Memory::Pages(pages) = &mut self.memory {
            pages.end(self.length.bytes())?;
        }
        fence(Ordering::Acquire);
        self.set_away(false);
        self.memory_mark().lists_given_back();
        Ok(())
    }

    /// Says whether a list that it is lent to has given it to the device.
    pub(crate) fn set_away(&mut self, is_away: bool) {
        self.length = self.length.away(is_away);
    }

    /// Refuses what cannot be one mapping, or is mapped by another.
    #[inline]
    pub(super) fn check_single(&self) -> Result<(), Error> {
        if self.length.bytes() as u64 > self.terms.longest() {
            return Err(Error::SegmentTooLong);
        }
        self.check_turn()
    }

    /// The pages beneath and their mark; or, if it is in a window or the device's, why not and this.
    pub(super) fn into_pages(self) -> Result<(Box<Pages>, Mark), (Error, Self)> {
        if let Err(error) = self.check_turn() {
            return Err((error, self));
        }
        match self.memory {
            Memory::Pages(pages) => Ok((pages, self.memory_mark)),
            memory => Err((Error::SharesWindow, Self { memory, ..self })),
        }
    }

    /// Tells the checker that it is mapped: by itself, or with others.
    #[track_caller]
    #[inline]
    pub(super) fn mark_mapped(&mut self) {
        if check::is_on() {
            let (of, iova, bytes) =
                (&[self.memory_mark()], self.memory.iova(), self.length.bytes() as u64);
            self.mark = self.terms.mark(Kind::Stream, of, iova, bytes, D::ACCESS);
        }
    }
}

impl<D: Direction> StreamBuffer<D, DeviceOwned> {
    /// The CPU's turn, for as long as it likes: Linux's `dma_sync_single_for_cpu`.
    #[inline]
    pub fn sync_for_cpu(mut self) -> StreamBuffer<D, Synced> {
        fence(Ordering::Acquire);
        if let Memory::Pages(pages) = &mut self.memory {
            pages.sync_for_cpu(self.length.bytes(), D::ACCESS);
        }
        self.turn()
    }

    /// The CPU's turn with a range, for as long as what is returned lives: Linux's `dma_sync_single_range_for_cpu`, and
    /// `dma_sync_single_range_for_device` afterwards.
    ///
    /// ```
    /// use libdma::FromDevice;
    ///
    /// # let machine = simulated::Machine::amdvi();
    /// # let device = machine.open();
    /// let mut ring = device.stream::<FromDevice>("samples").buffer(4096)?.map()?;
    /// machine.device_writes(ring.iova(), &[1; 64]).unwrap();
    /// let mut samples = [0; 64];
    /// ring.sync_range_for_cpu(0..64)?.read(0, &mut samples)?;
    /// assert_eq!(samples, [1; 64]);
    ///
    /// // The device goes on writing all the time. Now it is all the CPU's, and then the device's again:
    /// # machine.device_writes(ring.iova(), &[2; 4096]).unwrap();
    /// let whole = ring.sync_for_cpu();
    /// whole.read(4000, &mut samples)?;
    /// assert_eq!(samples, [2; 64]);
    /// let ring = whole.sync_for_device();
    /// # Ok::<(), libdma::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`].
    pub fn sync_range_for_cpu(&mut self, range: Range<usize>) -> Result<SyncedRange<'_, D>, Error> {
        if range.start > range.end || range.end > self.length.bytes() {
            return Err(Error::OutOfBuffer);
        }
        fence(Ordering::Acquire);
        if let (Memory::Pages(pages), true) = (&self.memory, D::ACCESS.may_write()) {
            pages.copy_to_cpu(range.start, range.len());
        }
        Ok(SyncedRange::new(self, range))
    }

    /// It is not mapped any more: by itself, or with others.
    #[track_caller]
    pub(crate) fn into_unmapped(mut self) -> StreamBuffer<D, CpuOwned> {
        fence(Ordering::Acquire);
        mem::take(&mut self.mark).given_back();
        self.turn()
    }
}

impl<D: Direction> StreamBuffer<D, Synced> {
    /// The device's turn again: Linux's `dma_sync_single_for_device`.
    #[inline]
    pub fn sync_for_device(mut self) -> StreamBuffer<D, DeviceOwned> {
        if let Memory::Pages(pages) = &mut self.memory {
            pages.sync_for_device(self.length.bytes(), D::ACCESS);
        }
        self.hand_over()
    }
}

impl<D: Direction, O: HasAddress> StreamBuffer<D, O> {
    /// Where the device sees it: what to write into its registers.
    #[inline]
    pub fn iova(&self) -> Iova {
        self.memory.iova()
    }

    /// The same as an address that knows which device it is of.
    pub fn io_address(&self) -> IoAddress<'_> {
        IoAddress::new(self.terms.session(), self.iova(), self.length.bytes() as u64)
    }

    /// Makes it the CPU's: Linux's `dma_unmap_single`. In a window that ends the driver's claim and not the device's
    /// access; of a strict stream, the device reaches it no more when this returns (rule R2).
    ///
    /// # Errors
    ///
    /// Never in a window. Else as [`Device::unmap`](crate::Device::unmap), with the buffer as it was.
    #[track_caller]
    #[inline]
    pub fn unmap(self) -> Step<StreamBuffer<D, CpuOwned>, Self> {
        match self.memory {
            Memory::Window(_) if self.mark.is_none() => {
                fence(Ordering::Acquire);
                Ok(self.turn())
            }
            _ => self.unmap_otherwise(),
        }
    }

    /// The same where there is more to be done than to say so.
    #[track_caller]
    #[inline(never)]
    fn unmap_otherwise(mut self) -> Step<StreamBuffer<D, CpuOwned>, Self> {
        if let Memory::Pages(pages) = &mut self.memory
            && let Err(error) = pages.end(self.length.bytes())
        {
            return Err(Refused::new(error, self));
        }
        fence(Ordering::Acquire);
        mem::take(&mut self.mark).given_back();
        Ok(self.turn())
    }
}

impl<D: Direction, O: CpuMay> StreamBuffer<D, O> {
    /// Copies bytes out, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`], and [`Error::OfDevice`] if it is [the device's still](Self::take_back); with nothing copied.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        self.check_turn()?;
        self.extent().read(offset, out)
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), Error> {
        self.check_turn()?;
        self.extent().write(offset, data)?;
        self.cpu_writes();
        Ok(())
    }

    /// Makes all of it zeroes.
    ///
    /// # Errors
    ///
    /// [`Error::OfDevice`] if it is [the device's still](Self::take_back), with nothing written.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.check_turn()?;
        // SAFETY: that is its length.
        unsafe { copy::zero(self.memory.as_ptr(), self.length.bytes()) };
        self.cpu_writes();
        Ok(())
    }

    /// Its first byte's place, for access by raw pointers: volatile or atomic only, for a device that misbehaves may
    /// write at any time.
    ///
    /// # Errors
    ///
    /// [`Error::OfDevice`] if it is [the device's still](Self::take_back).
    pub fn as_ptr(&self) -> Result<NonNull<u8>, Error> {
        self.check_turn()?;
        self.cpu_writes();
        Ok(self.memory.as_ptr())
    }

    /// The CPU writes to it, or may.
    #[inline]
    fn cpu_writes(&self) {
        if let Memory::Pages(pages) = &self.memory {
            pages.cpu_writes();
        }
    }
}

impl<D: Direction, O: Owner> StreamBuffer<D, O> {
    /// Its length in bytes: what was asked for.
    #[inline]
    pub fn len(&self) -> usize {
        self.length.bytes()
    }

    /// Never: a buffer of no bytes cannot be allocated.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Whether it lies in a window, so that mapping and unmapping it are no requests to iommud.
    pub fn is_in_window(&self) -> bool {
        matches!(self.memory, Memory::Window(_))
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// By what the checker knows its memory.
    #[inline]
    pub(crate) fn memory_mark(&self) -> &Mark {
        match &self.memory {
            Memory::Pages(pages) if self.memory_mark.is_none() => pages.mark(),
            _ => &self.memory_mark,
        }
    }

    pub(crate) fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// What is to be mapped or unmapped of it, if it is not in a window.
    pub(crate) fn piece(&mut self, single: bool) -> Option<Piece<'_>> {
        let bytes = self.length.bytes();
        self.memory.pages().map(|pages| Piece { pages, bytes, single })
    }

    /// Refuses what is the device's by a list that was forgotten.
    #[inline]
    pub(crate) fn check_turn(&self) -> Result<(), Error> {
        if self.length.is_away() { Err(Error::OfDevice) } else { Ok(()) }
    }

    /// Its memory, whoever's turn it is.
    pub(crate) fn extent(&self) -> Extent<'_> {
        // SAFETY: the memory is this one's while it lives, mapped writable, and no shorter.
        unsafe { Extent::new(self.memory.as_ptr(), self.length.bytes()) }
    }

    /// What the CPU wrote is seen by the device before what it is told of it.
    #[inline]
    pub(super) fn hand_over(self) -> StreamBuffer<D, DeviceOwned> {
        fence(Ordering::Release);
        self.turn()
    }

    #[inline(always)]
    fn turn<P: Owner>(self) -> StreamBuffer<D, P> {
        let Self { memory, length, terms, mark, memory_mark, of: _ } = self;
        StreamBuffer { memory, length, terms, mark, memory_mark, of: PhantomData }
    }
}

impl<D: Direction, O: Owner> fmt::Debug for StreamBuffer<D, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, iova) = (self.terms.session().address(), self.memory.iova());
        let iova = (iova != Iova::default()).then_some(iova);
        shown::guard(f, "StreamBuffer", device, iova, self.length.bytes() as u64).finish()
    }
}
