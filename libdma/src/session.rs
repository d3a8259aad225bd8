//! An open device as iommud knows it: the handle, and what it is of.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use dma_types::{Access, CacheType, Iova, PAGE_SIZE, PciAddress, SourceId};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::buffer::Buffer;
use crate::check::Space;
use crate::handle::Handle;
use crate::io_address::AddressSpace;
use crate::protocol::call::{
    self, DEVICE_FLAG_NOT_CONFINED, DEVICE_FLAG_WRITE_IMPLIES_READ, DeviceInfo, Hello, Opcode,
    Welcome,
};
use crate::protocol::derive::{self, Allocate};
use crate::protocol::{Error, MAX_BUFFER_BYTES, Secret, VERSION};
use crate::resume::{Link, UnderWay};
use crate::unmapped::{Asked, UnmappedBuffer};

/// An open device as iommud knows it. Everything that the device may reach holds on to it, so that the session
/// outlives them all.
#[derive(Debug)]
pub(crate) struct Session {
    handle: Handle,
    info: DeviceInfo,
    /// How it goes on after a restart of iommud, if this handle may.
    link: Option<Arc<Link>>,
    generation: AtomicU64,
    addresses: AddressSpace,
    space: Space,
}

/// What a buffer is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferRequest<'a> {
    /// In memory of any kind, or in one piece.
    pub(crate) kind: derive::Kind,
    /// Its length, a multiple of 4096.
    pub(crate) bytes: u64,
    /// What its I/O address is a multiple of: a power of two, at least 4096.
    pub(crate) align: u64,
    /// How it is mapped at once, if at all.
    pub(crate) access: Option<Access>,
    /// Its highest I/O address.
    pub(crate) limit: Iova,
    /// How CPUs are to cache it.
    pub(crate) cache: CacheType,
    /// What reports call it.
    pub(crate) label: &'a str,
}

/// Says hello on a device's handle: what it is for.
fn greet(handle: &Handle) -> Result<DeviceInfo, Error> {
    let welcome: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
    if welcome.version.get() != VERSION {
        return Err(Error::VersionMismatch);
    }
    handle.call(Opcode::DeviceInfo, &[0u8; 0])
}

impl Session {
    /// Takes over a device's handle; see [`Device::from_handle`](crate::Device::from_handle).
    pub(crate) fn new(mut handle: Handle) -> Result<Self, Error> {
        let info = greet(&handle)?;
        let source = SourceId::new(info.source.get());
        let device = PciAddress::from_source(info.segment.get(), source);
        let addresses = AddressSpace { device, session: info.session.get(), domain: None };
        let link = (info.secret != Secret::NONE).then(|| {
            let generation = info.generation.get();
            Link::new(handle.transport().clone(), device, info.secret, generation)
        });
        match &link {
            Some(link) => handle.keep_device(link),
            None => handle.keep_nowhere(),
        }
        let generation = AtomicU64::new(info.generation.get());
        Ok(Self { handle, info, link, generation, addresses, space: Space::new(addresses) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Its address space, as the checker knows it.
    pub(crate) fn space(&self) -> Space {
        self.space
    }

    /// The addresses of what is mapped for the device in its own domain.
    pub(crate) fn addresses(&self) -> AddressSpace {
        self.addresses
    }

    pub(crate) fn address(&self) -> PciAddress {
        self.addresses().device
    }

    pub(crate) fn segment(&self) -> u16 {
        self.info.segment.get()
    }

    pub(crate) fn generation(&self) -> u64 {
        // It goes up when the device is reset, and when iommud is restarted.
        let known = self.generation.load(Ordering::Relaxed);
        self.link.as_ref().map_or(known, |link| link.generation().max(known))
    }

    /// Says hello again: the generation that the device is of now.
    pub(crate) fn renew(&self) -> Result<u64, Error> {
        let generation = greet(&self.handle)?.generation.get();
        self.generation.fetch_max(generation, Ordering::Relaxed);
        Ok(self.generation())
    }

    /// How it goes on after a restart of iommud, if it does.
    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        self.link.as_ref()
    }

    /// Makes a request, all of it anew after a restart of iommud: `make` asks what it asks of handles as they are.
    pub(crate) fn request<R>(
        &self,
        mut make: impl FnMut() -> Result<R, Error>,
    ) -> Result<R, Error> {
        Link::request(self.link(), |_| make())
    }

    /// The same of what makes something that is to be kept over restarts.
    pub(crate) fn request_new<R>(
        &self,
        make: impl FnMut(Option<&UnderWay<'_>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        Link::request_new(self.link(), make)
    }

    /// The same of what can be made once.
    pub(crate) fn make_once<R>(
        &self,
        make: impl FnOnce(Option<&UnderWay<'_>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        match &self.link {
            Some(link) => link.once(|under_way| make(Some(under_way))),
            None => make(None),
        }
    }

    /// Whether both are the same session of the same device, by whichever handle.
    pub(crate) fn is_the_same_as(&self, other: &Self) -> bool {
        self.addresses() == other.addresses()
    }

    pub(crate) fn domain(&self) -> u64 {
        self.info.domain.get()
    }

    pub(crate) fn write_implies_read(&self) -> bool {
        self.info.flags.get() & DEVICE_FLAG_WRITE_IMPLIES_READ != 0
    }

    pub(crate) fn is_confined(&self) -> bool {
        self.info.flags.get() & DEVICE_FLAG_NOT_CONFINED == 0
    }

    /// The longest memory that is one piece for the device, in bytes.
    pub(crate) fn longest_piece(&self) -> u64 {
        match self.info.longest_piece.get() {
            0 => MAX_BUFFER_BYTES,
            pages => MAX_BUFFER_BYTES.min(u64::from(pages) * PAGE_SIZE),
        }
    }

    /// The highest I/O address of the domain.
    pub(crate) fn last_address(&self) -> Iova {
        Iova::new((1 << self.info.address_bits.get().clamp(12, 63)) - 1)
    }

    /// How long a buffer is to be. Without an IOMMU it is aligned as its memory is, which lies at a multiple of its length
    /// rounded up to a power of two: what is aligned to more is made as long.
    fn length_of(&self, request: &BufferRequest<'_>) -> u64 {
        let BufferRequest { bytes, align, access, .. } = *request;
        let natural = bytes.checked_next_power_of_two().unwrap_or(bytes);
        if self.is_confined() || access.is_none() || align <= natural {
            bytes
        } else {
            align.min(MAX_BUFFER_BYTES)
        }
    }

    /// Has iommud make a buffer, and maps it into this process.
    pub(crate) fn allocate(self: &Arc<Self>, request: &BufferRequest<'_>) -> Result<Buffer, Error> {
        Ok(self.allocate_unmapped(request)?.map()?)
    }

    /// Has iommud make a buffer, by a request for one.
    pub(crate) fn make(
        self: &Arc<Self>,
        request: &(impl IntoBytes + Immutable),
    ) -> Result<UnmappedBuffer, Error> {
        self.request_new(|under_way| {
            let handle = self.handle.derive_once(request.as_bytes())?;
            let _: Welcome = handle.call(Opcode::Hello, &Hello::new())?;
            UnmappedBuffer::greeted(handle, self.clone(), under_way)
        })
    }

    /// Has iommud make a buffer, and maps it nowhere.
    pub(crate) fn allocate_unmapped(
        self: &Arc<Self>,
        request: &BufferRequest<'_>,
    ) -> Result<UnmappedBuffer, Error> {
        let BufferRequest { kind, align, access, limit, cache, label, .. } = *request;
        let bytes = self.length_of(request);
        let request = Allocate {
            kind: U32::new(kind as u32),
            access: U32::new(access.map_or(0, call::access_code)),
            bytes: U64::new(bytes),
            align: U64::new(align),
            limit: U64::new(limit.get()),
            cache: U32::new(call::cache_code(cache)),
            reserved: U32::ZERO,
            label: Allocate::label(label),
        };
        self.make(&request)?.if_it_is(&Asked { bytes: Some(bytes), access, align, limit })
    }
}
