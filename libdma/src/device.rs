//! A device that this process drives.

use alloc::sync::Arc;
use alloc::vec::Vec;

use dma_types::{Access, Iova, PAGE_SIZE, PciAddress, SourceId};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::buffer::Buffer;
use crate::fault::{Fault, Faults};
use crate::handle::Handle;
use crate::protocol::call::{
    self, BatchHeader, DEVICE_FLAG_NOT_CONFINED, DEVICE_FLAG_WRITE_IMPLIES_READ, DeviceInfo, Hello,
    MapEntry, Opcode, UnmapEntry, Welcome,
};
use crate::protocol::derive::{self, Allocate};
use crate::protocol::fault::{FaultRecord, FaultsHeader};
use crate::protocol::{Error, MAX_BATCH, Rights, VERSION, path};
use crate::transport::Transport;

/// A device that this process drives: the right to give it memory.
///
/// One process at a time holds a device (others get [`Error::DeviceBusy`]). When the last copy of its
/// handle is gone, the device reaches nothing any more: everything here ends with the process that
/// held it, however it died (rule R4).
///
/// Cloning it is cheap and shares the handle.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Arc<Inner>,
    limit: Iova,
}

#[derive(Debug)]
struct Inner {
    handle: Handle,
    info: DeviceInfo,
}

/// A piece of a buffer to map, for [`Device::map`].
#[derive(Clone, Copy, Debug)]
pub struct MapRequest<'a> {
    /// The buffer, which must be of this device.
    pub buffer: &'a Buffer,
    /// Where in it the piece starts, a multiple of 4096.
    pub offset: u64,
    /// How long it is, a multiple of 4096.
    pub bytes: u64,
    /// What the device may do with it.
    pub access: Access,
}

/// A mapping that [`Device::map`] made: what [`Device::unmap`] takes back.
///
/// It is a plain value. The mapping ends with [`Device::unmap`], with its buffer, or with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where the device sees it.
    pub iova: Iova,
    /// How long it is.
    pub bytes: u64,
}

impl Device {
    /// Opens a device at iommud. From now on it reaches what this process gives it, and nothing else.
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
    /// handle to something else.
    pub fn from_handle(handle: Handle) -> Result<Self, Error> {
        let welcome: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
        if welcome.version.get() != VERSION {
            return Err(Error::VersionMismatch);
        }
        let info: DeviceInfo = handle.call(Opcode::DeviceInfo, &[0u8; 0])?;
        let bits = info.address_bits.get().clamp(12, 63);
        Ok(Self { inner: Arc::new(Inner { handle, info }), limit: Iova::new((1 << bits) - 1) })
    }

    /// Who the device is.
    pub fn address(&self) -> PciAddress {
        let DeviceInfo { segment, source, .. } = self.inner.info;
        PciAddress::from_source(segment.get(), SourceId::new(source.get()))
    }

    /// Which session of the device this is: the number goes up each time it is opened anew.
    pub fn generation(&self) -> u64 {
        self.inner.info.generation.get()
    }

    /// The number of its domain, as `iommuctl domains` shows it.
    pub fn domain(&self) -> u64 {
        self.inner.info.domain.get()
    }

    /// Whether memory that the device may write it may also read, because its IOMMU cannot tell the two
    /// apart (no zero-length reads; rule R6).
    pub fn write_implies_read(&self) -> bool {
        self.inner.info.flags.get() & DEVICE_FLAG_WRITE_IMPLIES_READ != 0
    }

    /// Whether anything keeps the device from memory that was not mapped for it. Where the machine has no IOMMU and
    /// the administrator lets iommud serve all the same, nothing does: [`allocate`](Self::allocate) gives memory in
    /// one physical piece or [`Error::NotContiguous`], [`Error::NoAddressSpace`] says that it lies beyond the DMA mask, and
    /// a buffer's memory must not be given back before the device has stopped using it. What [`map`](Self::map)
    /// mapped is to be unmapped before its buffer is dropped: else iommud keeps the memory until the last handle of
    /// the device is gone.
    pub fn is_confined(&self) -> bool {
        self.inner.info.flags.get() & DEVICE_FLAG_NOT_CONFINED == 0
    }

    /// The highest I/O address this device is given: the lower of what its DMA mask and its domain allow.
    pub fn limit(&self) -> Iova {
        self.limit
    }

    /// Says how many address bits the device has: Linux's `dma_set_mask_and_coherent`. It holds for
    /// buffers allocated and mapped through this value and its clones made afterwards.
    ///
    /// # Errors
    ///
    /// [`Error::BadValue`] for fewer than 13 bits or more than 64: page zero is never given out.
    pub fn set_dma_mask(&mut self, bits: u32) -> Result<(), Error> {
        if !(13..=64).contains(&bits) {
            return Err(Error::BadValue);
        }
        let domain = self.inner.info.address_bits.get().clamp(12, 63);
        self.limit = Iova::new((1 << bits.min(domain)) - 1);
        Ok(())
    }

    /// Allocates a buffer of zeroes, and maps it if `access` says how.
    ///
    /// `bytes` is rounded up to whole pages. `label` is what reports call the buffer.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::NoAddressSpace`] under the DMA mask, [`Error::ZeroSize`],
    /// [`Error::TooLarge`].
    pub fn allocate(
        &self,
        bytes: u64,
        access: Option<Access>,
        label: &str,
    ) -> Result<Buffer, Error> {
        self.allocate_as(derive::Kind::Allocate, bytes, PAGE_SIZE, access, label)
    }

    /// The same with an I/O address that is a multiple of `align`: a power of two, at least 4096.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate), and [`Error::BadAlignment`].
    pub fn allocate_aligned(
        &self,
        bytes: u64,
        align: u64,
        access: Option<Access>,
        label: &str,
    ) -> Result<Buffer, Error> {
        self.allocate_as(derive::Kind::Allocate, bytes, align, access, label)
    }

    /// As [`allocate`](Self::allocate), in one piece of physical memory, which starts at a multiple of its length
    /// rounded up to a power of two: Linux's `DMA_ATTR_FORCE_CONTIGUOUS`.
    ///
    /// # Errors
    ///
    /// As [`allocate`](Self::allocate); [`Error::NotContiguous`] for more than the system ever gives in one piece,
    /// which on Redox is 4 MiB.
    pub fn allocate_contiguous(
        &self,
        bytes: u64,
        access: Option<Access>,
        label: &str,
    ) -> Result<Buffer, Error> {
        self.allocate_as(derive::Kind::AllocateContiguous, bytes, PAGE_SIZE, access, label)
    }

    fn allocate_as(
        &self,
        kind: derive::Kind,
        bytes: u64,
        align: u64,
        access: Option<Access>,
        label: &str,
    ) -> Result<Buffer, Error> {
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Error::TooLarge)?;
        let request = Allocate {
            kind: U32::new(kind as u32),
            access: U32::new(access.map_or(0, call::access_code)),
            bytes: U64::new(bytes),
            align: U64::new(align),
            limit: U64::new(self.limit.get()),
            label: Allocate::label(label),
        };
        Buffer::from_handle(self.inner.handle.derive(&request)?, self.clone())
    }

    /// Maps pieces of this device's buffers, all of them or none (rule R7).
    ///
    /// # Errors
    ///
    /// [`Error::BatchTooLarge`] for more than [`MAX_BATCH`] pieces or none; else why the first piece that
    /// cannot be mapped cannot.
    pub fn map(&self, requests: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        let entries = requests.iter().map(|request| MapEntry {
            buffer: U64::new(request.buffer.id()),
            offset: U64::new(request.offset),
            bytes: U64::new(request.bytes),
            limit: U64::new(self.limit.get()),
            iova: U64::ZERO,
            access: U32::new(call::access_code(request.access)),
            reserved: U32::ZERO,
        });
        let answers = self.batch(Opcode::Map, entries)?;
        Ok(answers
            .iter()
            .map(|entry| Mapped { iova: Iova::new(entry.iova.get()), bytes: entry.bytes.get() })
            .collect())
    }

    /// Unmaps what [`map`](Self::map) mapped, all of it or nothing (rule R7). When it returns, the device can
    /// reach none of it any more (rule R2).
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] for a range that is not exactly one mapping, [`Error::TimedOut`] if the hardware
    /// did not confirm; the unit is then given up and its devices are cut off.
    pub fn unmap(&self, mappings: &[Mapped]) -> Result<(), Error> {
        let entries = mappings.iter().map(|mapping| UnmapEntry {
            iova: U64::new(mapping.iova.get()),
            bytes: U64::new(mapping.bytes),
        });
        self.batch(Opcode::Unmap, entries).map(drop)
    }

    /// Another handle to the same device with fewer rights, to pass to another process.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if this handle does not have all of `rights` itself (rule R3).
    pub fn derive(&self, rights: Rights) -> Result<Handle, Error> {
        self.inner.handle.derive(&derive::Copy {
            kind: U32::new(derive::Kind::Copy as u32),
            rights: U32::new(rights.bits()),
        })
    }

    /// Reads what the device was denied since this was last asked, by this process or another holder of a handle
    /// to the device. [`fault`](crate::fault) says how to wait for it.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if the handle may not inspect.
    pub fn faults(&self) -> Result<Faults, Error> {
        let mut read = Faults::default();
        loop {
            let left = self.read_faults(&mut read)?;
            // A device that is denied more all the time must not keep its driver here.
            if left == 0 || read.faults.len() >= MAX_BATCH {
                return Ok(read);
            }
        }
    }

    /// Reads as many faults as there is room for in one call; how many are left.
    fn read_faults(&self, read: &mut Faults) -> Result<u32, Error> {
        const ROOM: usize = 16;
        let mut payload = [0; size_of::<FaultsHeader>() + ROOM * size_of::<FaultRecord>()];
        let (header, _) =
            FaultsHeader::mut_from_prefix(&mut payload).map_err(|_| Error::ShortPayload)?;
        header.count = U32::new(ROOM as u32);
        let length = self.inner.handle.call_bytes(Opcode::Faults, &mut payload)?;
        let answer = payload.get(..length).ok_or(Error::ShortPayload)?;
        let (header, rest) =
            FaultsHeader::read_from_prefix(answer).map_err(|_| Error::ShortPayload)?;
        let (records, _) =
            <[FaultRecord]>::ref_from_prefix_with_elems(rest, header.count.get() as usize)
                .map_err(|_| Error::ShortPayload)?;
        let segment = self.inner.info.segment.get();
        for record in records {
            read.faults.push(Fault::from_record(segment, record)?);
        }
        read.dropped = read.dropped.saturating_add(header.dropped.get());
        Ok(header.left.get())
    }

    /// The handle of the device, as long as this or a clone lives.
    pub fn handle(&self) -> &Handle {
        &self.inner.handle
    }

    /// Sends a batch and gives its entries back as the daemon filled them in.
    fn batch<Entry>(
        &self,
        opcode: Opcode,
        entries: impl ExactSizeIterator<Item = Entry>,
    ) -> Result<Vec<Entry>, Error>
    where
        Entry: FromBytes + IntoBytes + zerocopy::Immutable,
    {
        let count = entries.len();
        if count == 0 || count > MAX_BATCH {
            return Err(Error::BatchTooLarge);
        }
        let header = BatchHeader {
            count: U32::new(count as u32),
            failed: U32::ZERO,
            errno: U32::ZERO,
            reserved: U32::ZERO,
        };
        let mut payload = Vec::with_capacity(size_of::<BatchHeader>() + count * size_of::<Entry>());
        payload.extend_from_slice(header.as_bytes());
        for entry in entries {
            payload.extend_from_slice(entry.as_bytes());
        }
        let length = self.inner.handle.call_bytes(opcode, &mut payload)?;
        let answer = payload.get(..length).ok_or(Error::ShortPayload)?;
        let (header, rest) =
            BatchHeader::read_from_prefix(answer).map_err(|_| Error::ShortPayload)?;
        if header.errno.get() != 0 {
            return Err(Error::from_errno(header.errno.get() as u16));
        }
        let answers: Vec<Entry> = rest
            .chunks_exact(size_of::<Entry>())
            .filter_map(|bytes| Entry::read_from_bytes(bytes).ok())
            .collect();
        if answers.len() == count { Ok(answers) } else { Err(Error::ShortPayload) }
    }
}
