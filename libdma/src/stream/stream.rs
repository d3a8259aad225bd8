//! Where streaming buffers come from.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use super::batch;
use super::bounced::{Bounced, Origin};
use super::memory::{Memory, Pages};
use super::{CpuOwned, DeviceOwned, Gather, Refused, Step, StreamBuffer, Terms};
use crate::attributes::Attributes;
use crate::buffer::Buffer;
use crate::check::Mark;
#[cfg(feature = "virtio")]
use crate::check::Place;
use crate::device::Device;
use crate::direction::{DeviceWrites, Direction, ToDevice};
use crate::protocol::Error;

/// Where streaming buffers of one direction come from.
///
/// What it maps lies in windows: memory that stays mapped for the device in that direction, so that mapping and unmapping
/// are no requests to iommud. Unmapping then ends the driver's claim and not the device's access: a device that goes on
/// writes into memory that is DMA memory of its own device still, and perhaps another buffer of the same driver's by now. Of a
/// [`strict`](Self::strict) stream each buffer has pages of its own, and the hardware lets the device reach them only while
/// they are mapped.
///
/// Cloning it is cheap.
///
/// It is [`Send` and `Sync`](crate#threads).
#[must_use = "it is where buffers come from, and not one"]
pub struct Stream<D: Direction> {
    terms: Arc<Terms>,
    of: PhantomData<fn() -> D>,
}

impl<D: Direction> fmt::Debug for Stream<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("device", &self.terms.session().address())
            .field("label", &self.terms.label)
            .field("access", &D::ACCESS)
            .field("limit", &self.terms.limit())
            .field("strict", &self.terms.strict)
            .finish()
    }
}

impl<D: Direction> Clone for Stream<D> {
    fn clone(&self) -> Self {
        Self { terms: self.terms.clone(), of: PhantomData }
    }
}

impl Device {
    /// Streaming buffers of a direction, within the [limits](Device::limits) as they are now. The [label](Device#labels) is what reports
    /// call those that are buffers of their own.
    pub fn stream<D: Direction>(&self, label: &str) -> Stream<D> {
        let terms =
            Terms::new(self.windows().clone(), self.limits(), self.highest_address(), label);
        Stream { terms: Arc::new(terms), of: PhantomData }
    }
}

impl<D: Direction> Stream<D> {
    /// The same, strict: what is unmapped no device can reach any more when the unmap returns (rule R2), and what is not
    /// mapped yet of the stream's own memory it cannot reach either. Each map and each unmap is a request to iommud;
    /// [`map_all`](Self::map_all) and [`Gather`] make one of many. Where the administrator's policy has unmaps answered before
    /// the hardware has confirmed them, those of a strict stream are waited for all the same.
    ///
    /// That is promised of the memory, and not just of the one mapping: a strict mapping is the only one of its memory.
    /// iommud refuses it with [`Error::MappedElsewhere`] if the memory is mapped otherwise, by whichever process and for
    /// whichever device: from its allocation on, by [`Device::map`] or [`Device::map_at`], in a
    /// [`Domain`](crate::Domain), or by an [`Attachment`](crate::Attachment). While it is mapped strictly, all of those are
    /// refused so.
    ///
    /// Not promised is anything about CPUs: another process that was [passed](Buffer::share) a handle to the memory sees it as
    /// before. Devices that no IOMMU can keep apart from this one reach what it does, while it does. And where there is no
    /// IOMMU nothing keeps a device from any memory; strict mappings exclude others there too.
    ///
    /// ```
    /// use libdma::{Access, Error, FromDevice, MapRequest};
    ///
    /// # let machine = simulated::Machine::vtd();
    /// # let device = machine.open();
    /// let buffer = device.allocate(4096, None, "verdict")?;
    /// let all = MapRequest { buffer: &buffer, offset: 0, bytes: 4096, access: Access::Write };
    /// let elsewhere = device.map(&[all])?;
    ///
    /// let stream = device.stream::<FromDevice>("rx").strict();
    /// let refused = stream.adopt(buffer).map().unwrap_err();
    /// assert_eq!(refused.error, Error::MappedElsewhere);
    ///
    /// device.unmap(&elsewhere)?;
    /// let mapped = refused.into_kept().map()?;
    /// let address = mapped.iova();
    /// # machine.device_writes(address, b"in time").unwrap();
    /// let verdict = mapped.unmap()?;      // From here on nobody but the CPU changes it.
    /// # assert!(machine.device_writes(address, b"late").is_err());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn strict(self) -> Self {
        self.with(|terms| terms.strict = true)
    }

    /// The same with these attributes: what Linux's `dma_map_single_attrs` and its like take, and `dma_alloc_attrs`.
    ///
    /// | attribute | what it does here |
    /// | --- | --- |
    /// | [`SKIP_CPU_SYNC`](Attributes::SKIP_CPU_SYNC) | mapping and unmapping copies nothing, and only what is synced by name is |
    /// | [`FORCE_CONTIGUOUS`](Attributes::FORCE_CONTIGUOUS) | memory of the stream's is in one physical piece, and so in no window: each map and each unmap of it is a request to iommud, and nothing is copied through a window |
    /// | [`NO_CPU_MAPPING`](Attributes::NO_CPU_MAPPING) | refused: the CPU could not take its turn |
    /// | [`WRITE_COMBINE`](Attributes::WRITE_COMBINE), [`UNCACHED`](Attributes::UNCACHED) | nothing: in its turn the CPU reads and writes memory that it caches, as Linux's `dma_alloc_noncoherent` gives it. A [`Buffer`] that was allocated so can be [adopted](Self::adopt) |
    /// | [`NON_CONSISTENT`](Attributes::NON_CONSISTENT) | nothing: a stream is that |
    /// | [`WEAK_ORDERING`](Attributes::WEAK_ORDERING), [`WRITE_BARRIER`](Attributes::WRITE_BARRIER) | nothing on x86, as they say |
    ///
    /// # Errors
    ///
    /// [`Error::NoCpuMapping`].
    pub fn attributes(self, attributes: Attributes) -> Result<Self, Error> {
        if attributes.contains(Attributes::NO_CPU_MAPPING) {
            return Err(Error::NoCpuMapping);
        }
        Ok(self.with(|terms| {
            terms.skip_cpu_sync = attributes.contains(Attributes::SKIP_CPU_SYNC);
            terms.contiguous = attributes.contains(Attributes::FORCE_CONTIGUOUS);
        }))
    }

    /// The same for who maps on behalf of a driver that is there in the code.
    #[cfg(feature = "virtio")]
    pub(crate) fn on_behalf_of(self, driver: Place) -> Self {
        self.with(|terms| terms.driver = Some(driver))
    }

    fn with(self, change: impl FnOnce(&mut Terms)) -> Self {
        let mut terms = Arc::unwrap_or_clone(self.terms);
        change(&mut terms);
        Self { terms: Arc::new(terms), of: PhantomData }
    }

    /// Memory of the stream's, of zeroes: Linux's `dma_alloc_noncoherent` and `dma_alloc_pages`.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`]; [`Error::NotContiguous`] with
    /// [`FORCE_CONTIGUOUS`](Attributes::FORCE_CONTIGUOUS) for more than there ever is in one piece.
    #[track_caller]
    pub fn buffer(&self, bytes: usize) -> Result<StreamBuffer<D>, Error> {
        let mut buffer = self.unfilled(bytes)?;
        if buffer.is_in_window() {
            buffer.clear()?;
        }
        Ok(buffer)
    }

    /// Memory of the stream's with a copy of these bytes.
    ///
    /// # Errors
    ///
    /// As [`buffer`](Self::buffer).
    #[track_caller]
    pub fn copy_of(&self, data: &[u8]) -> Result<StreamBuffer<D>, Error> {
        let mut buffer = self.unfilled(data.len())?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    #[track_caller]
    fn unfilled(&self, bytes: usize) -> Result<StreamBuffer<D>, Error> {
        if bytes == 0 {
            return Err(Error::ZeroSize);
        }
        let memory = self.terms.memory(bytes, D::ACCESS)?;
        let mark = self.terms.mark_memory(bytes);
        Ok(StreamBuffer::new(memory, mark, bytes, self.terms.clone()))
    }

    /// Takes a buffer over that was allocated or registered otherwise. It is mapped while it is the device's; or always,
    /// if it was allocated so, with an address that the stream's limits allow. Where it cannot be mapped below the limits, or
    /// lies beyond them without an IOMMU, the device reaches a [copy](super#what-is-copied-and-when) in a window. A strict stream does neither: what is mapped
    /// already it refuses to map with [`Error::MappedElsewhere`].
    pub fn adopt(&self, buffer: Buffer) -> StreamBuffer<D> {
        let bytes = buffer.len();
        let memory = Memory::Pages(Pages::new(buffer));
        // The buffer has one of its own.
        StreamBuffer::new(memory, Mark::default(), bytes, self.terms.clone())
    }

    /// Maps all of these or none (rule R7), by one request for those that are in no window.
    ///
    /// ```
    /// use libdma::ToDevice;
    ///
    /// # let machine = simulated::Machine::vtd();
    /// # let device = machine.open();
    /// let stream = device.stream::<ToDevice>("tx").strict();
    /// let packets = [b"one", b"two", b"six"].map(|it| stream.copy_of(it)).into_iter().collect::<Result<Vec<_>, _>>()?;
    /// # let before = machine.client.requests();
    /// let mapped = stream.map_all(packets)?;      // one request
    /// # assert_eq!(machine.client.requests(), before + 1);
    /// for packet in &mapped {
    ///     // packet.iova() and packet.len() into the device's ring ...
    /// #   assert_eq!(machine.device_reads(packet.iova(), 3).unwrap().len(), 3);
    /// }
    ///
    /// let mut done = stream.gather(mapped.len());
    /// for packet in mapped {
    ///     done.unmap_later(packet)?;              // one request for all
    /// }
    /// # assert_eq!(machine.client.requests(), before + 2);
    /// assert_eq!(std::iter::from_fn(|| done.take()).count(), 3);
    /// # Ok::<(), libdma::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// With the buffers as they were: as [`StreamBuffer::map`], and [`Error::BatchTooLarge`] if more than
    /// [`MAX_BATCH`](crate::protocol::MAX_BATCH) are in no window; [`Error::WrongOwner`] if one is of another device, and
    /// [`Error::OtherTerms`] if one is of a stream with other limits or attributes, or strict where this one is not, or the
    /// other way round.
    #[track_caller]
    pub fn map_all(
        &self,
        mut buffers: Vec<StreamBuffer<D>>,
    ) -> Step<Vec<StreamBuffer<D, DeviceOwned>>, Vec<StreamBuffer<D>>> {
        if let Err(error) = self.try_map_all(&mut buffers) {
            return Err(Refused::new(error, buffers));
        }
        // No closure: the checker asks for this function's caller.
        for buffer in &mut buffers {
            buffer.mark_mapped();
        }
        // In the same memory.
        Ok(buffers.into_iter().map(StreamBuffer::hand_over).collect())
    }

    fn try_map_all(&self, buffers: &mut [StreamBuffer<D>]) -> Result<(), Error> {
        let count = buffers.len();
        for buffer in &*buffers {
            self.terms.check_same(&buffer.terms)?;
            buffer.check_single()?;
        }
        let pieces = buffers.iter_mut().filter_map(|it| it.piece(true));
        let mut pieces = batch::collected(count, pieces);
        batch::map(&self.terms, D::ACCESS, &mut pieces)
    }

    /// Where unmaps are gathered, so that many are one request and one invalidation: `count` of them.
    pub fn gather(&self, count: usize) -> Gather<D> {
        Gather::new(self.terms.clone(), count)
    }

    pub(crate) fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }
}

impl Stream<ToDevice> {
    /// Has the device read a copy of a slice: Linux's `dma_map_single` of memory that is small or shares a page with other
    /// things.
    ///
    /// # Errors
    ///
    /// As [`buffer`](Self::buffer); [`Error::SegmentTooLong`] if it is longer than one segment may be.
    #[track_caller]
    #[inline]
    pub fn map_slice<'a>(&self, slice: &'a [u8]) -> Result<Bounced<'a, ToDevice>, Error> {
        Bounced::new(&self.terms, Origin::Shared(slice))
    }
}

impl<D: DeviceWrites> Stream<D> {
    /// Has the device write a copy of a slice, which comes back when it is synced or unmapped.
    ///
    /// # Errors
    ///
    /// As [`map_slice`](Stream::map_slice).
    #[track_caller]
    #[inline]
    pub fn map_slice_mut<'a>(&self, slice: &'a mut [u8]) -> Result<Bounced<'a, D>, Error> {
        Bounced::new(&self.terms, Origin::Exclusive(slice))
    }
}

impl<D: Direction> StreamBuffer<D, CpuOwned> {
    /// The buffer beneath, if it is not in a window: the one that was [adopted](Stream::adopt), say.
    ///
    /// # Errors
    ///
    /// With this one: [`Error::SharesWindow`], and [`Error::OfDevice`] if it is [the device's
    /// still](StreamBuffer::take_back).
    pub fn into_buffer(self) -> Step<Buffer, Self> {
        match self.into_pages() {
            Ok((pages, mark)) => Ok(pages.into_buffer().with_mark(mark)),
            Err((error, this)) => Err(Refused::new(error, this)),
        }
    }
}
