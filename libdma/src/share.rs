//! Buffers in other processes and for other devices: what `dma_mmap_coherent`, `dma_get_sgtable` and dma-buf are on Linux.
//!
//! A buffer is shared by passing on a handle to it, which is a descriptor of the operating system. Who gets it can do with
//! the memory what the handle's [`Rights`] say, and no more:
//!
//! | | Linux | needs |
//! | --- | --- | --- |
//! | [`Buffer::share`]: a descriptor to pass on | `dma_buf_export`, `dma_buf_fd` | the rights that it shall carry |
//! | [`SharedBuffer::from_handle`]: map it into the process that got it | `dma_mmap_coherent`, `dma_mmap_attrs` | `INSPECT` and `READ`; `WRITE` to change it |
//! | [`SharedBuffer::attach`]: map it for a device of that process | `dma_buf_attach`, `dma_buf_map_attachment` | `SHARE`, and `READ` or `WRITE` as the device shall read or write |
//! | [`Attachment::segments`]: the addresses to put into its descriptors | `dma_get_sgtable`, `sg_dma_address` | |
//!
//! ```
//! # use libdma::protocol::Rights;
//! # use libdma::{Access, Device, Error, SharedBuffer};
//! # fn main() -> Result<(), Error> {
//! # let machine = simulated::Machine::vtd();
//! # let camera = Device::open(machine.transport(), simulated::edu())?;
//! # let encoder = Device::open(machine.transport(), simulated::second_edu())?;
//! // The camera's driver allocates frames, and passes on a descriptor by which they can be read.
//! let frames = camera.allocate(1 << 20, Some(Access::Write), "frames")?;
//! let handle = frames.share(Rights::READ | Rights::INSPECT | Rights::SHARE)?;
//!
//! // The encoder's driver, which may be another process, looks at them and has its device read them.
//! let shared = SharedBuffer::from_handle(handle)?;
//! let mut pixels = [0; 16];
//! shared.read(0, &mut pixels)?;
//! assert_eq!(shared.write(0, &pixels), Err(Error::NotPermitted));
//! let attached = shared.attach(&encoder, Access::Read, "frames to encode")?;
//! for segment in attached.segments() {
//!     let (address, bytes) = (segment.for_device(&encoder)?, segment.bytes());
//!     // ... into the encoder's descriptors.
//! #   assert_eq!((Some(address), bytes), (attached.io_address().for_device(&encoder).ok(), 1 << 20));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Only whole buffers can be shared. Small coherent blocks lie several to a page in windows that a driver has of its device,
//! and a handle is to a buffer: whoever got one would see all the blocks in it. Ask for memory that is to be shared by
//! [`Device::allocate`](crate::Device::allocate).
//!
//! The memory lives until the last buffer of it is gone and every unit has confirmed that its device can reach it no more
//! (rule R2). So a driver whose counterpart dies keeps what it has attached and mapped, as with dma-buf; what ends with the
//! other's session is the other device's access, and the right to attach it to more devices.

use alloc::format;
use core::fmt;
use core::ptr::NonNull;

use dma_types::{Access, CpuAddr, Iova, PAGE_SIZE};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::buffer::Buffer;
use crate::check::{self, Kind, Mark, Note, Space};
use crate::device::Device;
use crate::extent::Extent;
use crate::handle::Handle;
use crate::io_address::IoAddress;
use crate::limits::Limits;
use crate::protocol::call::{self, BufferInfo, Hello, Opcode, Welcome};
use crate::protocol::derive::{self, Allocate};
use crate::protocol::ticket::Offer;
use crate::protocol::{Error, Rights, Ticket};
use crate::resume::Link;
use crate::shown;
use crate::transport::Mapping;
use crate::unmapped::{Asked, UnmappedBuffer};

impl Buffer {
    /// Another handle to this buffer with these rights, to pass to another process, which makes a [`SharedBuffer`] of it:
    /// Linux's `dma_buf_export` and `dma_buf_fd`. How a handle gets to another process is the operating system's business:
    /// on Linux over a Unix socket (`SCM_RIGHTS`), on Redox by `sendfd`, or by inheritance on both.
    ///
    /// Without [`Rights::INSPECT`] nobody can map it, without [`Rights::WRITE`] it is mapped for reading alone.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if this buffer's handle does not have all of `rights` itself (rule R3).
    pub fn share(&self, rights: Rights) -> Result<Handle, Error> {
        copy(self.handle(), rights)
    }

    /// Maps it for another device of this process too: [`SharedBuffer::attach`] without a second mapping in this process.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::attach`].
    #[track_caller]
    pub fn attach(
        &self,
        device: &Device,
        access: Access,
        label: &str,
    ) -> Result<Attachment, Error> {
        attach(self.handle(), device, access, label)
    }
}

impl UnmappedBuffer {
    /// Another handle to this buffer with these rights: see [`Buffer::share`].
    ///
    /// # Errors
    ///
    /// As [`Buffer::share`].
    pub fn share(&self, rights: Rights) -> Result<Handle, Error> {
        copy(self.handle(), rights)
    }

    /// Maps it for another device of this process too: see [`SharedBuffer::attach`].
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::attach`].
    #[track_caller]
    pub fn attach(
        &self,
        device: &Device,
        access: Access,
        label: &str,
    ) -> Result<Attachment, Error> {
        attach(self.handle(), device, access, label)
    }
}

impl Device {
    /// Offers a part of the device's registers to other devices: the `bytes` bytes from `offset` on of BAR `bar`, for what
    /// `access` says. Whoever is told the ticket can [`attach`](Self::attach) it to a device once; that device's DMA then
    /// reaches those registers (peer to peer), until either device's session ends. Linux's `dma_map_resource`, but that
    /// a device's registers are named by its handle and not by a physical address (rule R3).
    ///
    /// ```
    /// # use libdma::{Access, Device, Error};
    /// # fn main() -> Result<(), Error> {
    /// # let machine = simulated::Machine::amdvi();
    /// # let card = Device::open(machine.transport(), simulated::edu())?;
    /// # let disk = Device::open(machine.transport(), simulated::second_edu())?;
    /// // The disk is to ring the card's doorbell when it has written.
    /// let ticket = card.offer_bar(0, 0, 4096, Access::Write)?;
    /// let doorbells = disk.attach(&ticket, Access::Write, "the card's doorbells")?;
    /// let doorbell = doorbells.io_address().at(0x80)?.for_device(&disk)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Whether a request of one device reaches another is the machine's root complex's affair. Where the platform has no
    /// record of how long BARs are, none can be offered: [`Error::NotRegisters`]. On Redox that is so where iommud was not
    /// started by init, or was started again: it asks pcid before there are drivers, and not again.
    ///
    /// Only whole pages can be offered, for a page of registers may not be shared with anything (rule R8): `offset` and
    /// `bytes` are multiples of 4096, and a BAR of less than a page cannot be offered.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if the handle may not share, or not read or write itself what others shall, or is
    /// [within bounds](Self::restricted), [`Error::OutOfBuffer`] if the BAR is shorter,
    /// [`Error::BadAlignment`], [`Error::ZeroSize`], [`Error::NotRegisters`] if there is no memory BAR of this number
    /// or nobody knows how long it is, and [`Error::QuotaExceeded`] when too many tickets wait to be used.
    pub fn offer_bar(
        &self,
        bar: u32,
        offset: u64,
        bytes: u64,
        access: Access,
    ) -> Result<Ticket, Error> {
        let access = U32::new(call::access_code(access));
        let (bar, offset, bytes) = (U32::new(bar), U64::new(offset), U64::new(bytes));
        let rights = U32::new(Rights::INSPECT.bits());
        offer(self.handle(), Offer { rights, access, offset, bytes, bar, reserved: U32::ZERO })
    }

    /// Maps for this device what a ticket offers: another device's registers.
    ///
    /// # Errors
    ///
    /// [`Error::BadTicket`] if it was used or its maker is gone, [`Error::NotPermitted`] if it does not allow `access`,
    /// [`Error::QuotaExceeded`], [`Error::NoAddressSpace`] under the DMA mask: the ticket is good still. It is used if iommud
    /// is gone before it has told what it mapped.
    #[track_caller]
    pub fn attach(
        &self,
        ticket: &Ticket,
        access: Access,
        label: &str,
    ) -> Result<Attachment, Error> {
        let buffer = self.attach_once(ticket, access, label)?;
        self.attached(buffer, access, label)
    }

    /// Maps what a ticket offers. If iommud is restarted meanwhile, the ticket is one no more.
    fn attach_once(
        &self,
        ticket: &Ticket,
        access: Access,
        label: &str,
    ) -> Result<UnmappedBuffer, Error> {
        let limit = self.highest_address();
        let request = derive::Attach {
            kind: U32::new(derive::Kind::Attach as u32),
            access: U32::new(call::access_code(access)),
            rights: U32::new(Rights::INSPECT.bits()),
            reserved: U32::ZERO,
            align: U64::new(PAGE_SIZE),
            limit: U64::new(limit.get()),
            ticket: ticket.0,
            label: Allocate::label(label),
        };
        let buffer = self.windows().after_trimming(|| self.session().make(&request))?;
        buffer.if_it_is(&Asked { bytes: None, access: Some(access), align: PAGE_SIZE, limit })
    }

    /// What was so mapped, as the driver's own.
    #[track_caller]
    fn attached(
        &self,
        buffer: UnmappedBuffer,
        access: Access,
        label: &str,
    ) -> Result<Attachment, Error> {
        let iova = buffer.iova().ok_or(Error::BadValue)?;
        let buffer = buffer.marked(Kind::Attachment, Some(access), label);
        Ok(Attachment { buffer, iova, access, limits: self.limits() })
    }
}

/// A buffer that another process allocated and passed on, mapped into this one: Linux's `dma_mmap_coherent` and
/// `dma_mmap_attrs`, from the side that looks at the memory.
///
/// It is mapped with the rights that its handle carries: without [`Rights::WRITE`] for reading alone, which the operating
/// system enforces. As everywhere, the memory is copied in and out by volatile access, since a device may change it at any
/// time, and other processes too.
///
/// It goes on being valid when the process that allocated it dies; then no device writes to it any more, except those
/// that it was attached to.
///
/// So it does when iommud is restarted. What it was attached to stays attached, for that is the device's own. To attach it to
/// more, or to pass it on, takes another handle from whoever passed this one, whose buffer goes on:
/// [`Error::HandleLost`] says so.
///
/// It is `Send` and [not `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<libdma::SharedBuffer>();
/// ```
#[must_use = "dropped, this process sees the memory no more"]
pub struct SharedBuffer {
    memory: Mapping,
    bytes: usize,
    info: BufferInfo,
    handle: Handle,
    #[allow(dead_code, reason = "it is dropped with the memory")]
    mark: Mark,
}

// SAFETY: as a `Buffer`'s, the memory is a mapping of the process and tied to no thread. It is not `Sync`, so that two
// threads do not race by it.
unsafe impl Send for SharedBuffer {}

impl SharedBuffer {
    /// Maps a buffer whose handle was passed to this process.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if the handle does not carry [`Rights::INSPECT`] and [`Rights::READ`],
    /// [`Error::WrongHandleKind`] if it is a handle to something else, [`Error::VersionMismatch`],
    /// [`Error::NotMemory`] and [`Error::OutOfBuffer`] if what came with it is not memory that stays as long as it says,
    /// [`Error::OutOfMemory`], [`Error::HandleLost`]. The handle is closed then.
    #[track_caller]
    pub fn from_handle(mut handle: Handle) -> Result<Self, Error> {
        handle.keep_nowhere();
        let _: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
        let info: BufferInfo = handle.call(Opcode::BufferInfo, &[0u8; 0])?;
        let bytes = usize::try_from(info.bytes.get()).map_err(|_| Error::TooLarge)?;
        let writable = rights(&info).contains(Rights::WRITE);
        let memory = handle.map_buffer(bytes, writable)?;
        let mut shared = Self { memory, bytes, info, handle, mark: Mark::default() };
        if check::is_on() {
            shared.mark = shared.noted();
        }
        Ok(shared)
    }

    /// Tells the checker of it, which knows it by the number of the buffer: its label is in the other process.
    #[track_caller]
    #[cold]
    fn noted(&self) -> Mark {
        let label = format!("buffer {}", self.id());
        let (kind, space, bytes) = (Kind::Shared, Space::of_nobody(), self.bytes as u64);
        check::made(|| Note { kind, label: &label, space, iova: None, bytes, access: None })
    }

    /// The number of the buffer, by which iommud and its reports know it.
    pub fn id(&self) -> u64 {
        self.info.buffer.get()
    }

    /// What its handle allows.
    pub fn rights(&self) -> Rights {
        rights(&self.info)
    }

    /// Its length in bytes, a multiple of 4096.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never: a buffer of no bytes cannot be allocated.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where this process sees it.
    pub fn cpu_address(&self) -> CpuAddr {
        self.memory.memory.into()
    }

    /// The start of the memory, for access by raw pointers: volatile or atomic only, and no writes without
    /// [`Rights::WRITE`].
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.memory.memory
    }

    /// Another handle to it with fewer rights, to pass on.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if this handle does not have all of `rights` itself (rule R3).
    pub fn share(&self, rights: Rights) -> Result<Handle, Error> {
        copy(&self.handle, rights)
    }

    /// Maps it for a device of this process: Linux's `dma_buf_attach` and `dma_buf_map_attachment`. It counts in that
    /// device's quota, is bounded by its DMA mask, and reports know it by `label`.
    ///
    /// While it is the device's by a [strict stream](crate::Stream::strict), it is [`Error::MappedElsewhere`].
    ///
    /// It may be attached to several devices, to the device that it was allocated for, and several times to each; each
    /// attachment is at an address of its own. Without an IOMMU there is only the one address, so a second attachment to
    /// one device is [`Error::AlreadyMapped`].
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if the handle does not carry [`Rights::SHARE`], and [`Rights::READ`] or [`Rights::WRITE`] as
    /// the device is to read or write; [`Error::SessionEnded`] if the session that allocated it is over;
    /// [`Error::QuotaExceeded`], [`Error::OutOfMemory`], [`Error::NoAddressSpace`] under the DMA mask. Without an IOMMU the
    /// memory must be below the DMA mask as it is, and in one piece ([`Error::NotContiguous`]).
    #[track_caller]
    pub fn attach(
        &self,
        device: &Device,
        access: Access,
        label: &str,
    ) -> Result<Attachment, Error> {
        attach(&self.handle, device, access, label)
    }

    /// Copies bytes out, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`], with nothing copied.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Error> {
        self.extent().read(offset, out)
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`], [`Error::NotPermitted`] without [`Rights::WRITE`]; with nothing copied.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), Error> {
        let extent = self.extent();
        let part = extent.part(offset, data.len()).ok_or(Error::OutOfBuffer)?;
        if !self.rights().contains(Rights::WRITE) {
            return Err(Error::NotPermitted);
        }
        part.write(0, data)
    }

    fn extent(&self) -> Extent<'_> {
        // SAFETY: it is this buffer's mapping, which lives as long as it does, and is writable with the right to write,
        // without which `write` writes nothing.
        unsafe { Extent::new(self.memory.memory, self.bytes) }
    }
}

impl fmt::Debug for SharedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, bytes) = (&self.id(), &self.bytes);
        f.debug_struct("SharedBuffer").field("id", id).field("bytes", bytes).finish()
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and nothing borrows from it any more. It goes before the handle.
        unsafe { self.handle.transport().unmap(self.memory) };
    }
}

/// What is mapped for a device of another's: a shared buffer, or a part of another device's BAR.
///
/// Dropping it ends the device's access. The memory goes on being its other holders'.
///
/// It is [`Send` and `Sync`](crate#threads).
#[must_use = "dropped, the device reaches the memory no more"]
pub struct Attachment {
    buffer: UnmappedBuffer,
    iova: Iova,
    access: Access,
    limits: Limits,
}

impl Attachment {
    /// Where the device sees it.
    pub fn io_address(&self) -> IoAddress<'_> {
        IoAddress::new(self.buffer.session(), self.iova, self.buffer.bytes())
    }

    /// The addresses for the device's descriptors: Linux's `dma_get_sgtable`, and `sg_dma_address` and `sg_dma_len` of what
    /// it gives. Each is no longer than the device's [`Limits`] allow, and crosses no boundary of theirs.
    pub fn segments(&self) -> impl Iterator<Item = IoAddress<'_>> {
        let mut rest = Some(self.io_address());
        core::iter::from_fn(move || {
            let address = rest?;
            let boundary = self.limits.segment_boundary();
            let to_boundary = boundary - address.start().get() % boundary;
            let segment = address.first(to_boundary.min(self.limits.max_segment_bytes()));
            rest = address.at(segment.bytes()).ok();
            Some(segment)
        })
    }

    /// Its length in bytes, a multiple of 4096.
    pub fn bytes(&self) -> u64 {
        self.buffer.bytes()
    }

    /// What the device may do with it.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Its number, by which iommud and its reports know it: another than that of the buffer that was offered.
    pub fn id(&self) -> u64 {
        self.buffer.id()
    }

    /// Its handle.
    pub fn handle(&self) -> &Handle {
        self.buffer.handle()
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, iova) = (self.buffer.session().address(), Some(self.iova));
        let mut shown = shown::guard(f, "Attachment", device, iova, self.bytes());
        shown.field("id", &self.id()).finish()
    }
}

/// Another handle to the same with these rights.
fn copy(handle: &Handle, rights: Rights) -> Result<Handle, Error> {
    let kind = U32::new(derive::Kind::Copy as u32);
    handle.derive(&derive::Copy { kind, rights: U32::new(rights.bits()) })
}

/// Maps for a device the buffer that a handle is to.
#[track_caller]
fn attach(
    handle: &Handle,
    device: &Device,
    access: Access,
    label: &str,
) -> Result<Attachment, Error> {
    // A ticket that is not used, since it cannot be mapped, is to end with a handle of its own.
    let mut rights = Rights::SHARE | Rights::INSPECT;
    rights.set(Rights::READ, access.may_read());
    rights.set(Rights::WRITE, access.may_write());
    let (least, access_code) = (Rights::INSPECT.bits(), call::access_code(access));
    let (least, access_code) = (U32::new(least), U32::new(access_code));
    let links = [handle.link(), device.session().link()];
    let buffer = Link::together(links, |_| {
        let handle = copy(handle, rights)?;
        let wanted = Offer { rights: least, access: access_code, ..Offer::default() };
        device.attach_once(&offer(&handle, wanted)?, access, label)
    })?;
    device.attached(buffer, access, label)
}

fn offer(handle: &Handle, mut offer: Offer) -> Result<Ticket, Error> {
    let payload = offer.as_mut_bytes();
    let length = handle.call_bytes(Opcode::Offer, payload)?;
    let answer = payload.get(..length).ok_or(Error::ShortPayload)?;
    let (ticket, _) = Ticket::read_from_prefix(answer).map_err(|_| Error::ShortPayload)?;
    Ok(ticket)
}

fn rights(info: &BufferInfo) -> Rights {
    Rights::from_bits_truncate(info.rights.get())
}
