//! Batches of mappings: pieces of buffers, mapped and unmapped by one request.

use alloc::vec;
use alloc::vec::Vec;
use core::{iter, slice};

use dma_types::{Access, Iova, PAGE_SIZE};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::buffer::Buffer;
use crate::check::{self, Act, Space};
use crate::device::Device;
use crate::handle::Handle;
use crate::io_address::{AddressSpace, BusAddress};
use crate::protocol::call::{
    self, BATCH_FLAG_STRICT, BatchHeader, MAP_FLAG_AT, MAP_FLAG_BEHIND, MapEntry, Opcode,
    UnmapEntry,
};
use crate::protocol::domain::{self, Lookup};
use crate::protocol::{Error, MAX_BATCH};
use crate::resume::{Lost, Piece, UnderWay};
use crate::session::Session;

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

/// A batch of one as it lies on the wire.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct One<Entry> {
    header: BatchHeader,
    entry: Entry,
}

/// In front of a batch of so many entries.
fn header(count: usize, flags: u32) -> BatchHeader {
    BatchHeader {
        count: U32::new(count as u32),
        failed: U32::ZERO,
        errno: U32::ZERO,
        flags: U32::new(flags),
    }
}

/// The entry that asks for a mapping there.
fn map_entry(request: &MapRequest<'_>, limit: Iova, (flags, iova): (u32, u64)) -> MapEntry {
    MapEntry {
        buffer: U64::new(request.buffer.id()),
        offset: U64::new(request.offset),
        bytes: U64::new(request.bytes),
        limit: U64::new(limit.get()),
        iova: U64::new(iova),
        access: U32::new(call::access_code(request.access)),
        flags: U32::new(flags),
    }
}

/// What it is a mapping of.
fn piece(request: &MapRequest<'_>) -> Piece {
    Piece { buffer: request.buffer.id(), offset: request.offset, bytes: request.bytes }
}

/// The entry that ends a mapping.
fn unmap_entry(mapping: &Mapped) -> UnmapEntry {
    UnmapEntry { iova: U64::new(mapping.iova().get()), bytes: U64::new(mapping.bytes) }
}

/// Where the pieces of a batch are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// Each wherever there is room.
    Anywhere,
    /// One behind the other, wherever there is room for all.
    Together,
    /// One behind the other, from this address on.
    From(Iova),
}

impl Places {
    /// What the flags and the address of a batch's entry say of this.
    const fn of_entry(self, index: usize) -> (u32, u64) {
        match (self, index) {
            (Self::Anywhere, _) | (Self::Together, 0) => (0, 0),
            (Self::From(iova), 0) => (MAP_FLAG_AT, iova.get()),
            (Self::Together | Self::From(_), _) => (MAP_FLAG_BEHIND, 0),
        }
    }
}

/// Whether pieces were mapped as was asked for: the driver tells its device where they are. iommud may be anybody (rule R5).
fn are_as_asked(
    answers: &[MapEntry],
    requests: &[MapRequest<'_>],
    places: Places,
    limit: Iova,
) -> bool {
    let mut next = match places {
        Places::From(iova) => Some(iova.get()),
        Places::Anywhere | Places::Together => None,
    };
    answers.iter().zip(requests).all(|(answer, request)| {
        let (start, bytes) = (answer.iova.get(), answer.bytes.get());
        let is_there = bytes == request.bytes
            && start.is_multiple_of(PAGE_SIZE)
            && next.is_none_or(|next| next == start);
        let end = start.checked_add(bytes);
        if places != Places::Anywhere {
            next = end;
        }
        is_there && end.is_some_and(|end| end.saturating_sub(1) <= limit.get())
    })
}

impl Session {
    /// As [`Device::map`](crate::Device::map), below this limit.
    pub(crate) fn map(
        &self,
        requests: &[MapRequest<'_>],
        limit: Iova,
    ) -> Result<Vec<Mapped>, Error> {
        self.handle().map(self.addresses(), requests, Places::Anywhere, limit, 0)
    }

    /// As [`Device::unmap`](crate::Device::unmap).
    pub(crate) fn unmap(&self, mappings: &[Mapped]) -> Result<(), Error> {
        self.handle().unmap(None, mappings, 0)
    }

    /// The same, but when it returns no device reaches them whatever the policy says (rule R2).
    pub(crate) fn unmap_strictly(&self, mappings: &[Mapped]) -> Result<(), Error> {
        self.handle().unmap(None, mappings, BATCH_FLAG_STRICT)
    }
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
    /// [`Error::AlreadyMapped`], [`Error::AddressReserved`], [`Error::OutsideWindow`] beyond what the IOMMU translates,
    /// [`Error::NoAddressSpace`] beyond the DMA mask, [`Error::NotReady`] if what was mapped there is still being forgotten,
    /// [`Error::NoIommu`] if there is none and the memory is elsewhere; and those of [`map`](Self::map).
    #[track_caller]
    pub fn map_at(&self, iova: Iova, pieces: &[MapRequest<'_>]) -> Result<Vec<Mapped>, Error> {
        let (handle, limit, own) =
            (self.handle(), self.highest_address(), self.session().addresses());
        let map = || handle.map(own, pieces, Places::From(iova), limit, 0);
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
        let map = || handle.map(own, pieces, Places::Together, limit, 0);
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
    /// Maps pieces of buffers in the address space of this handle, which is a device's or a domain's, with these flags in the
    /// batch's header.
    pub(crate) fn map(
        &self,
        space: AddressSpace,
        requests: &[MapRequest<'_>],
        places: Places,
        limit: Iova,
        flags: u32,
    ) -> Result<Vec<Mapped>, Error> {
        if let ([request], Places::Anywhere) = (requests, places) {
            let iova = self.map_one(space.domain, request, limit, flags)?;
            return Ok(vec![Mapped::new(BusAddress::new(space, iova), request.bytes)]);
        }
        let entries = || {
            let entry = |(index, request)| map_entry(request, limit, places.of_entry(index));
            requests.iter().enumerate().map(entry)
        };
        let pieces = || requests.iter().map(piece);
        self.map_and_note(space.domain, pieces, |under_way| {
            self.batch(Opcode::Map, flags, entries(), |answers: &[MapEntry]| {
                if !are_as_asked(answers, requests, places, limit) {
                    return Err(Error::BadValue);
                }
                if let Some(under_way) = under_way {
                    let places = answers.iter().map(|entry| entry.iova.get());
                    under_way.learn(space.domain, places.zip(pieces()))?;
                }
                let mapped = |entry: &MapEntry| {
                    let address = BusAddress::new(space, Iova::new(entry.iova.get()));
                    Mapped::new(address, entry.bytes.get())
                };
                Ok(answers.iter().map(mapped).collect())
            })?
        })
    }

    /// The same of one piece, wherever there is room for it, without the heap: where it is.
    pub(crate) fn map_one(
        &self,
        domain: Option<u64>,
        request: &MapRequest<'_>,
        limit: Iova,
        flags: u32,
    ) -> Result<Iova, Error> {
        let (places, piece) = (Places::Anywhere, piece(request));
        let pieces = || iter::once(piece);
        self.map_and_note(domain, pieces, |under_way| {
            let entry = map_entry(request, limit, places.of_entry(0));
            let mut one = One { header: header(1, flags), entry };
            self.ask_one(Opcode::Map, &mut one)?;
            let answer = slice::from_ref(&one.entry);
            if !are_as_asked(answer, slice::from_ref(request), places, limit) {
                return Err(Error::BadValue);
            }
            let iova = one.entry.iova.get();
            if let Some(under_way) = under_way {
                under_way.learn(domain, iter::once((iova, piece)))?;
            }
            Ok(Iova::new(iova))
        })
    }

    /// Makes a request for mappings of these pieces, which notes what was mapped, if that is kept over restarts; after a
    /// restart it is made again.
    #[inline(always)]
    fn map_and_note<R, Pieces: Iterator<Item = Piece>>(
        &self,
        domain: Option<u64>,
        pieces: impl Fn() -> Pieces,
        mut map: impl FnMut(Option<&UnderWay<'_>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let Some(link) = self.link() else { return map(None) };
        link.request_and_note(|under_way| {
            let mapped = map(Some(under_way));
            if let Err(Error::DaemonGone) = mapped {
                link.lose(pieces().map(|piece| Lost { domain, piece }));
            }
            mapped
        })
    }

    /// Unmaps what was so mapped, with these flags in the batch's header.
    pub(crate) fn unmap(
        &self,
        domain: Option<u64>,
        mappings: &[Mapped],
        flags: u32,
    ) -> Result<(), Error> {
        let Some(link) = self.link() else { return self.unmap_once(mappings, flags) };
        let at = |mapping: &Mapped| (domain, mapping.iova().get());
        // What is known of these places by a higher number was mapped by another thread since this was asked for.
        let mut noted = None;
        link.request_and_note(|under_way| {
            let noted = match noted {
                None => {
                    let noted = *noted.insert(under_way.noted());
                    self.unmap_once(mappings, flags)?;
                    noted
                }
                Some(noted) => {
                    match &*self.still_mapped(mappings, |it| link.known(at(it)), noted)? {
                        [] => {}
                        rest => self.unmap_once(rest, flags)?,
                    }
                    noted
                }
            };
            under_way.forget(mappings.iter().map(at), noted);
            Ok(())
        })
    }

    /// What of a batch is to be unmapped still, after a restart of iommud: all of it, unless there is something that was
    /// mapped for sure, as is `known`, and is not any more, for which the batch was good and in part done. What was mapped
    /// there since by another thread, after so many had been noted, is that one's.
    #[cold]
    fn still_mapped(
        &self,
        mappings: &[Mapped],
        known: impl Fn(&Mapped) -> Option<u64>,
        noted: u64,
    ) -> Result<Vec<Mapped>, Error> {
        let mut rest = Vec::with_capacity(mappings.len());
        let mut is_begun = false;
        for mapping in mappings {
            let start = mapping.iova().get();
            let mut found = domain::Found::new_zeroed();
            let request = Lookup { iova: U64::new(start) };
            let payload = found.as_mut_bytes();
            payload[..size_of::<Lookup>()].copy_from_slice(request.as_bytes());
            self.call_once(Opcode::Lookup, payload)?;
            let number = known(mapping);
            let is_there = found.access.get() != 0 && number.is_none_or(|number| number <= noted);
            if is_there && (found.start.get(), found.bytes.get()) == (start, mapping.bytes) {
                rest.push(*mapping);
            } else {
                is_begun |= number.is_some();
            }
        }
        Ok(if is_begun { rest } else { mappings.to_vec() })
    }

    /// Unmaps, if iommud is there.
    #[inline]
    fn unmap_once(&self, mappings: &[Mapped], flags: u32) -> Result<(), Error> {
        match mappings {
            [mapping] => {
                let mut one = One { header: header(1, flags), entry: unmap_entry(mapping) };
                self.ask_one(Opcode::Unmap, &mut one)
            }
            _ => {
                let entries = mappings.iter().map(unmap_entry);
                self.batch(Opcode::Unmap, flags, entries, |_| ())
            }
        }
    }

    /// Unmaps what a driver says was mapped in this address space, which is this handle's. What is another's is told the
    /// checker, and not iommud, to which it would be a number like any.
    #[track_caller]
    pub(crate) fn unmap_checked(
        &self,
        addresses: AddressSpace,
        space: Space,
        mappings: &[Mapped],
    ) -> Result<(), Error> {
        for mapping in mappings {
            if let Err(wrong) = mapping.address.within(addresses) {
                check::wrong_device(mapping.iova(), wrong, Act::GiveBack);
                return Err(wrong.into());
            }
        }
        let unmapped = self.unmap(addresses.domain, mappings, 0);
        check::mappings::unmapped(space, mappings, unmapped);
        unmapped
    }

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

    /// Sends a batch of one, whose entry is then as the daemon filled it in.
    #[inline]
    fn ask_one<Entry>(&self, opcode: Opcode, one: &mut One<Entry>) -> Result<(), Error>
    where
        Entry: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
    {
        let length = self.call_once(opcode, one.as_mut_bytes())?;
        if length < size_of::<BatchHeader>() {
            return Err(Error::ShortPayload);
        }
        match one.header.errno.get() {
            0 if length == size_of::<One<Entry>>() => Ok(()),
            0 => Err(Error::ShortPayload),
            errno => Err(Error::from_errno(errno as u16)),
        }
    }

    /// Sends a batch, and has its entries read as the daemon filled them in.
    fn batch<Entry, R>(
        &self,
        opcode: Opcode,
        flags: u32,
        entries: impl ExactSizeIterator<Item = Entry>,
        read: impl FnOnce(&[Entry]) -> R,
    ) -> Result<R, Error>
    where
        Entry: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
    {
        let count = entries.len();
        if count == 0 {
            return Err(Error::EmptyBatch);
        }
        if count > MAX_BATCH {
            return Err(Error::BatchTooLarge);
        }
        let mut payload = vec![0; size_of::<BatchHeader>() + count * size_of::<Entry>()];
        let (head, rest) = payload.split_at_mut(size_of::<BatchHeader>());
        head.copy_from_slice(header(count, flags).as_bytes());
        let places = <[Entry]>::mut_from_bytes(rest).map_err(|_| Error::ShortPayload)?;
        for (place, entry) in places.iter_mut().zip(entries) {
            *place = entry;
        }
        let length = self.call_once(opcode, &mut payload)?;
        let answer = payload.get(..length).ok_or(Error::ShortPayload)?;
        let (header, rest) =
            BatchHeader::ref_from_prefix(answer).map_err(|_| Error::ShortPayload)?;
        if header.errno.get() != 0 {
            return Err(Error::from_errno(header.errno.get() as u16));
        }
        let answers = <[Entry]>::ref_from_bytes_with_elems(rest, count);
        Ok(read(answers.map_err(|_| Error::ShortPayload)?))
    }
}
