//! What is to be mapped, what was, and where.

use alloc::vec::Vec;

use dma_types::{Access, Iova};
use zerocopy::little_endian::U64;

use super::wire::Places;
use crate::buffer::Buffer;
use crate::check;
use crate::device::Device;
use crate::handle::Handle;
use crate::io_address::{AddressSpace, BusAddress};
use crate::protocol::Error;
use crate::protocol::call::{self, Opcode};
use crate::protocol::domain::{self, Lookup};

/// A piece of a buffer to map, for [`Device::map`](crate::Device::map).
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

/// A mapping that [`Device::map`](crate::Device::map) made: what [`Device::unmap`](crate::Device::unmap) takes back.
///
/// It is a plain value. The mapping ends with [`Device::unmap`](crate::Device::unmap), with its buffer, or with the device.
///
/// It knows whose it is: given to another device or domain it is [`Error::WrongOwner`], and nothing is unmapped.
///
/// ```
/// use libdma::{Access, Error, MapRequest, Mapped};
///
/// # let machine = simulated::Machine::vtd();
/// # let disk = machine.open();
/// # let card = machine.open_at(simulated::second_edu())?;
/// let sectors = disk.allocate(4096, None, "sectors")?;
/// let all = MapRequest { buffer: &sectors, offset: 0, bytes: 4096, access: Access::Write };
/// let mapped = disk.map(&[all])?[0];
/// let number = mapped.iova();             // for the disk's registers
/// assert_eq!(card.unmap(&[mapped]), Err(Error::WrongOwner));
/// disk.unmap(&[mapped])?;
///
/// // A driver that keeps no more than the number and the length says whose they are:
/// # let number = disk.map(&[all])?[0].iova();
/// disk.unmap(&[Mapped::new(disk.bus_address(number), 4096)])?;
/// # drop((sectors, disk, card));
/// # machine.check();
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    address: BusAddress,
    bytes: u64,
}

impl Mapped {
    /// The mapping of so many bytes at this address, if it is one: that is found when it is unmapped.
    pub const fn new(address: BusAddress, bytes: u64) -> Self {
        Self { address, bytes }
    }

    /// Where the device sees it: the number for its registers and descriptors.
    pub const fn iova(self) -> Iova {
        self.address.iova()
    }

    /// The same with whose it is.
    pub const fn address(self) -> BusAddress {
        self.address
    }

    /// How long it is.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }
}

/// What is mapped at an I/O address: Linux's `iommu_iova_to_phys`, but for a physical address, which no driver is told
/// (rule R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The whole mapping.
    pub mapping: Mapped,
    /// The number of the buffer that is mapped: see [`Buffer::id`].
    pub buffer: u64,
    /// Where in the buffer the byte of the address is.
    pub offset: u64,
    /// What the page tables let a device do. [`Access::ReadWrite`] for memory that was mapped for writing alone, where an
    /// IOMMU cannot tell the two apart (rule R6).
    pub access: Access,
}

impl Device {
    /// Maps pieces of this device's buffers in its own domain from an address on, each directly behind the one before, all
    /// of them or none (rule R7).
    ///
    /// An address that iommud has not chosen can be taken: [`Error::AlreadyMapped`]. In a [`Domain`](crate::Domain) with an aperture it is the
    /// driver alone who decides.
    ///
    /// For the quota of what may be mapped at once (`mapped_bytes` in iommud's policy) it counts as what it maps and 12 KiB more:
    /// the page tables that an address takes which lies by itself.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyMapped`], [`Error::AddressReserved`], [`Error::OutsideAperture`] beyond what the IOMMU translates,
    /// [`Error::NoAddressSpace`] beyond the DMA mask, [`Error::NotReady`] if what was mapped there is still being forgotten,
    /// [`Error::NoIommu`] if there is none and the memory is elsewhere; and those of [`map`](Self::map).
    #[track_caller]
    pub fn map_at(&self, iova: Iova, pieces: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        let (handle, limit, own) =
            (self.handle(), self.highest_address(), self.session().addresses());
        let map = || handle.map(own, pieces, Places::From(iova), limit);
        let mapped = self.windows().after_trimming(map)?;
        check::mappings::mapped(self.session().space(), pieces, &mapped);
        Ok(mapped)
    }

    /// Maps pieces of this device's buffers wherever there is room for all of them, each directly behind the one before,
    /// all of them or none (rule R7): the device sees one segment, as Linux's `iommu_dma_map_sg` makes it.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    #[track_caller]
    pub fn map_together(&self, pieces: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        let (handle, limit, own) =
            (self.handle(), self.highest_address(), self.session().addresses());
        let map = || handle.map(own, pieces, Places::Together, limit);
        let mapped = self.windows().after_trimming(map)?;
        check::mappings::mapped(self.session().space(), pieces, &mapped);
        Ok(mapped)
    }

    /// What of this session's is mapped at an address in this device's own domain, if anything: Linux's
    /// `iommu_iova_to_phys`, with the buffer for an answer.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] if the handle may not inspect.
    pub fn lookup(&self, iova: Iova) -> Result<Option<Found>, Error> {
        self.handle().lookup(self.session().addresses(), iova)
    }
}

impl Handle {
    /// What of this session's is mapped at an address of this handle's address space.
    pub(crate) fn lookup(&self, space: AddressSpace, iova: Iova) -> Result<Option<Found>, Error> {
        let request = Lookup { iova: U64::new(iova.get()) };
        let found: domain::Found = self.call(Opcode::Lookup, &request)?;
        if found.access.get() == 0 {
            return Ok(None);
        }
        let address = BusAddress::new(space, Iova::new(found.start.get()));
        let mapping = Mapped::new(address, found.bytes.get());
        let (buffer, offset) = (found.buffer.get(), found.offset.get());
        let access = call::access_from_code(found.access.get())?;
        Ok(Some(Found { mapping, buffer, offset, access }))
    }
}
