//! A device that this process drives.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use dma_types::{Access, Iova, PciAddress};
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

use crate::buffer::{self, Buffer};
use crate::check;
use crate::coherent;
use crate::event::{Event, Events};
use crate::handle::Handle;
use crate::limits::Limits;
use crate::mapping::{MapRequest, Mapped};
use crate::protocol::call::Opcode;
use crate::protocol::derive::{self, Kind};
use crate::protocol::event::{EventRecord, EventsHeader};
use crate::protocol::{Error, MAX_BATCH, Rights, path};
use crate::session::Session;
use crate::transport::Transport;
use crate::window::{WindowUsage, Windows};

/// A device that this process drives: the right to give it memory.
///
/// One process at a time holds a device (others get [`Error::DeviceBusy`]). When the last copy of its
/// handle is gone, the device reaches nothing any more: everything here ends with the process that
/// held it, however it died (rule R4).
///
/// Cloning it is cheap and shares the handle.
///
/// The examples of this crate run on a simulated machine, with iommud's service in the same process; a driver's
/// transport is a Redox scheme or a Linux socket, and all else is the same.
///
/// ```
/// use libdma::{Access, Device};
///
/// let machine = simulated::Machine::vtd();
/// let device = Device::open(machine.transport(), simulated::edu())?;
///
/// let tail = device.coherent("tail").access(Access::Read).value::<u64>()?;
/// tail.set(7);
/// // What the device sees there:
/// assert_eq!(machine.device_reads(tail.iova(), 8), Ok(7u64.to_le_bytes().to_vec()));
/// // It may read there, and nothing else:
/// assert!(machine.device_writes(tail.iova(), &[1]).is_err());
/// # machine.check();
/// # Ok::<(), libdma::Error>(())
/// ```
///
/// # Labels
///
/// What is taken of a device has a label, by which reports call it: those of the [checker](crate::check) in this process, and
/// iommud's and `iommuctl`'s. It need not be unique. Of one that is longer than 32 bytes iommud keeps as much as fits, cut
/// between characters; the checker has all of it.
///
/// It is [`Send` and `Sync`](crate#threads).
#[derive(Clone)]
pub struct Device {
    session: Arc<Session>,
    windows: Arc<Windows>,
    limits: Limits,
}

impl Device {
    /// Opens a device at iommud. From now on it reaches what this process gives it, and nothing else.
    ///
    /// While it is not known yet whether somebody holds it, this waits: a driver may have died while its own opening took a
    /// while, or the device is being [reset](Self::reset).
    ///
    /// # Errors
    ///
    /// [`Error::DeviceBusy`] if another driver holds it, [`Error::NoSuchDevice`] if it does not exist or no
    /// IOMMU covers it, [`Error::NotPermitted`] if this process may not open devices,
    /// [`Error::DaemonGone`] if there is no iommud.
    pub fn open(transport: Arc<dyn Transport>, address: PciAddress) -> Result<Self, Error> {
        Self::from_handle(Handle::open(transport, &path::device(address))?)
    }

    /// Takes over a device handle that was opened elsewhere and passed to this process.
    ///
    /// # Errors
    ///
    /// [`Error::VersionMismatch`] if iommud speaks another protocol, [`Error::WrongHandleKind`] if it is a
    /// handle to something else, [`Error::NotPermitted`] if it was derived without
    /// [`Rights::INSPECT`], [`Error::Revoked`], [`Error::DaemonGone`]. The handle is closed then.
    pub fn from_handle(handle: Handle) -> Result<Self, Error> {
        let session = Arc::new(Session::new(handle)?);
        Ok(Self::from_windows(Arc::new(Windows::new(session))))
    }

    /// The device of these windows, without limits.
    pub(crate) fn from_windows(windows: Arc<Windows>) -> Self {
        Self { session: windows.session().clone(), windows, limits: Limits::NONE }
    }

    /// Who the device is.
    pub fn address(&self) -> PciAddress {
        self.session.address()
    }

    /// The number of the session that its opening began: no two openings of a device have the same, and all handles to the
    /// device that came of one have.
    pub fn session_id(&self) -> u64 {
        self.session.addresses().session
    }

    /// How often the device has started afresh: the number goes up each time it is opened anew or reset, or
    /// its driver goes on after a restart of iommud.
    pub fn generation(&self) -> u64 {
        self.session.generation()
    }

    /// Looks whether iommud was restarted, and goes on with its successor if so: everything that this process has of the device
    /// has new handles. Every request does so by itself, and over a Redox scheme or a Linux socket this is done once a second, from
    /// a thread; only a driver on another transport that makes no requests for long has to.
    ///
    /// Until then the device reaches what it reached, and [pools](crate::Pool), windows and what streams in them go on. A driver
    /// learns of it by the [generation](Self::generation). Descriptors of handles are others then: who waits for
    /// [events](crate::event) takes the device's anew.
    ///
    /// # Errors
    ///
    /// [`Error::DaemonGone`] if there is no successor, or one that knows nothing of the session, because it waited for longer
    /// than the policy's `orphans`, or this process was only given its handle and may not open the scheme. The device reaches
    /// nothing any more then, or will not soon.
    pub fn resume(&self) -> Result<(), Error> {
        self.session.link().map_or(Ok(()), |link| link.look())
    }

    /// The number of its domain, as `iommuctl domains` shows it.
    pub fn domain(&self) -> u64 {
        self.session.domain()
    }

    /// Whether memory that the device may write it may also read, because its IOMMU cannot tell the two
    /// apart (no zero-length reads; rule R6).
    pub fn write_implies_read(&self) -> bool {
        self.session.write_implies_read()
    }

    /// Whether anything keeps the device from memory that was not mapped for it. Where the machine has no IOMMU and
    /// the administrator lets iommud serve all the same, nothing does: [`allocate`](Self::allocate) gives memory in
    /// one physical piece or [`Error::NotContiguous`], [`Error::NoAddressSpace`] says that it lies beyond the DMA mask, and
    /// a buffer's memory must not be given back before the device has stopped using it. What [`map`](Self::map)
    /// mapped is to be unmapped before its buffer is dropped: else iommud keeps the memory until the last handle of
    /// the device is gone.
    pub fn is_confined(&self) -> bool {
        self.session.is_confined()
    }

    /// What the device can be given: set by [`set_limits`](Self::set_limits).
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Says what the device can be given: Linux's `dma_set_mask`, `dma_set_coherent_mask`, `dma_set_max_seg_size` and
    /// `dma_set_seg_boundary`. It holds for what is allocated and mapped through this value and its clones made
    /// afterwards.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The highest I/O address that streaming buffers of this device are given: the lower of what its DMA mask and its
    /// domain allow.
    pub fn highest_address(&self) -> Iova {
        self.limits.mask().min(self.session.last_address())
    }

    /// The same for coherent memory.
    #[inline]
    pub fn highest_coherent_address(&self) -> Iova {
        self.limits.coherent_mask().min(self.session.last_address())
    }

    /// Says how many address bits the device has: Linux's `dma_set_mask_and_coherent`. It holds as
    /// [`set_limits`](Self::set_limits) does.
    ///
    /// # Errors
    ///
    /// [`Error::BadMask`] for fewer than 13 bits or more than 64: page zero is never given out.
    pub fn set_dma_mask(&mut self, bits: u32) -> Result<(), Error> {
        self.limits = self.limits.try_mask(bits).ok_or(Error::BadMask)?;
        Ok(())
    }

    /// Begins an allocation of coherent memory: Linux's `dma_alloc_coherent`. The [label](Self#labels) is what reports
    /// call it, where it is a buffer of its own.
    #[inline]
    pub fn coherent<'a>(&'a self, label: &'a str) -> coherent::Builder<'a> {
        coherent::Builder::new(self, label)
    }

    /// Begins an allocation of a [`Buffer`]: memory of whole pages, as bytes. The
    /// [label](Self#labels) is what reports call it.
    ///
    /// A [`Stream`](crate::Stream) has a `buffer`, too: that is memory of the stream's, with a direction, which CPU and
    /// device take turns with.
    pub fn buffer<'a>(&'a self, label: &'a str) -> buffer::Builder<'a> {
        buffer::Builder::new(self, label)
    }

    /// Allocates a buffer of zeroes, and maps it if `access` says how: short for [`buffer`](Self::buffer) with no more
    /// said of it.
    ///
    /// `bytes` is rounded up to whole pages. The [label](Self#labels) is what reports call the buffer.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::QuotaExceeded`], [`Error::NoAddressSpace`] under the DMA mask,
    /// [`Error::ZeroSize`], [`Error::TooLarge`]; without an IOMMU [`Error::NotContiguous`] for more than
    /// [`max_mapping_size`](Self::max_mapping_size), if it is to be mapped.
    #[track_caller]
    pub fn allocate(
        &self,
        bytes: u64,
        access: Option<Access>,
        label: &str,
    ) -> Result<Buffer, Error> {
        self.buffer(label).access(access).allocate(bytes)
    }

    /// Maps pieces of this device's buffers, all of them or none (rule R7).
    ///
    /// # Errors
    ///
    /// [`Error::BatchTooLarge`] for more than [`MAX_BATCH`] pieces, [`Error::EmptyBatch`] for none; else why the first piece
    /// that cannot be mapped cannot.
    #[track_caller]
    pub fn map(&self, requests: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        let mapped =
            self.windows.after_trimming(|| self.session.map(requests, self.highest_address()))?;
        check::mappings::mapped(self.session.space(), requests, &mapped);
        Ok(mapped)
    }

    /// Unmaps what [`map`](Self::map) mapped, all of it or nothing (rule R7). When it returns, the device can reach none of
    /// it any more (rule R2), but where the administrator's policy defers that by a few milliseconds: nothing of it is used
    /// again before, and whoever cannot wait so long takes a [strict stream](crate::Stream::strict).
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] for a range that is not exactly one mapping, [`Error::WrongOwner`] for what was mapped for
    /// another device or session or in a domain, [`Error::TimedOut`] if the hardware did not confirm; the unit is then
    /// given up and its devices are cut off. [`Error::BatchTooLarge`] for more than [`MAX_BATCH`] mappings,
    /// [`Error::EmptyBatch`] for none.
    #[track_caller]
    pub fn unmap(&self, mappings: &[Mapped]) -> Result<(), Error> {
        self.handle().unmap_checked(self.session.addresses(), self.session.space(), mappings)
    }

    /// Another handle to the same device with fewer rights, to pass to another process.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if this handle does not have all of `rights` itself (rule R3).
    pub fn derive(&self, rights: Rights) -> Result<Handle, Error> {
        self.session.handle().derive(&derive::Copy {
            kind: U32::new(Kind::Copy as u32),
            rights: U32::new(rights.bits()),
        })
    }

    /// Reads what happened to the device since this was last asked, by this process or another holder of a handle
    /// to the device. [`event`](crate::event) says how to wait for it.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if the handle may not inspect, or was derived [within bounds](Self::restricted): events are
    /// for who has all of the device. What was read before a request fails is given all the same.
    pub fn events(&self) -> Result<Events, Error> {
        let mut read = Events::default();
        loop {
            let before = read.events.len();
            match self.read_events(&mut read) {
                // A device that is denied more all the time must not keep its driver here, nor an iommud that says so.
                Ok(left) if left == 0 || read.events.len() >= MAX_BATCH => return Ok(read),
                Ok(_) if read.events.len() == before => return Ok(read),
                Ok(_) => {}
                // What was read can be read nowhere else any more; the error comes again.
                Err(_) if read != Events::default() => return Ok(read),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads as many events as there is room for in one call; how many are left.
    fn read_events(&self, read: &mut Events) -> Result<u32, Error> {
        const ROOM: usize = 16;
        let mut payload = [0; size_of::<EventsHeader>() + ROOM * size_of::<EventRecord>()];
        let (header, _) =
            EventsHeader::mut_from_prefix(&mut payload).map_err(|_| Error::ShortPayload)?;
        header.count = U32::new(ROOM as u32);
        let length = self.session.handle().call_bytes(Opcode::Events, &mut payload)?;
        let answer = payload.get(..length).ok_or(Error::ShortPayload)?;
        let (header, rest) =
            EventsHeader::read_from_prefix(answer).map_err(|_| Error::ShortPayload)?;
        let (records, _) =
            <[EventRecord]>::ref_from_prefix_with_elems(rest, header.count.get() as usize)
                .map_err(|_| Error::ShortPayload)?;
        let segment = self.session.segment();
        for record in records {
            let event = Event::from_record(segment, record)?;
            if let Event::Fault(fault) = &event {
                check::denied(self.session.space(), fault);
            }
            read.events.push(event);
        }
        read.dropped = read.dropped.saturating_add(header.dropped.get());
        Ok(header.left.get())
    }

    /// The session that the device's handle began.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Its windows, which all its clones share.
    #[inline]
    pub(crate) fn windows(&self) -> &Arc<Windows> {
        &self.windows
    }

    /// How much is in the device's windows, for each kind of which there are any.
    pub fn window_usage(&self) -> Vec<WindowUsage> {
        self.windows.usage()
    }

    /// Gives back the windows that nothing is taken from: how many bytes they were. It happens by itself when iommud
    /// has no more to give to this device; a driver does it when it will be idle for long.
    pub fn trim(&self) -> usize {
        self.windows.trim()
    }

    /// The handle of the device, as long as this or a clone lives.
    pub fn handle(&self) -> &Handle {
        self.session.handle()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("address", &self.address())
            .field("session", &self.session_id())
            .field("limits", &self.limits)
            .finish()
    }
}
