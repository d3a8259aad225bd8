//! Where the device of a tag is kept, with all that it was given.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;

use dma_types::{Access, CpuAddr, PAGE_SIZE};
use spin::{Mutex, MutexGuard};
use virtio_drivers::{BufferDirection, PhysAddr};

use super::error::Error;
use super::registers::Registers;
use super::shared::{Shared, Streams};
use crate::buffer::Buffer;
use crate::check::Place;
use crate::device::Device;
use crate::protocol;

/// Where the device of a [`Tag`](super::Tag) is kept, with all that it was given: a static of the driver's.
///
/// It is [`Send` and `Sync`](crate#threads), and so is what stands for it.
///
/// ```
/// use libdma::virtio::{Binding, DeviceHal, Tag};
///
/// fn both<T: Send + Sync>() {}
/// fn of<T: Tag>() {
///     both::<Binding>();
///     both::<DeviceHal<T>>();
/// }
/// ```
#[derive(Debug, Default)]
pub struct Binding(Mutex<Bound>);

impl Binding {
    /// Of no device yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Bound::NONE))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Bound> {
        self.0.lock()
    }
}

/// A device and all that it was given.
#[derive(Debug)]
pub(super) struct Bound {
    device: Option<Driver>,
    pub(super) registers: Vec<Registers>,
    /// What `dma_alloc` gave, by I/O address.
    coherent: BTreeMap<PhysAddr, Buffer>,
    /// What is shared, by I/O address, and of which buffer it is a copy.
    shared: BTreeMap<PhysAddr, (CpuAddr, Shared)>,
    /// Why memory was last refused.
    pub(super) error: Option<Error>,
}

/// A device, and where in the code it was bound: whatever the crate asks for, reports tell as from there.
#[derive(Debug)]
struct Driver {
    device: Device,
    streams: Arc<Streams>,
    at: Place,
}

impl Default for Bound {
    fn default() -> Self {
        Self::NONE
    }
}

impl Bound {
    pub(super) const NONE: Self = Self {
        device: None,
        registers: Vec::new(),
        coherent: BTreeMap::new(),
        shared: BTreeMap::new(),
        error: None,
    };

    /// Takes a device, if there is none.
    #[track_caller]
    pub(super) fn bind(&mut self, device: &Device) -> Result<(), Error> {
        if self.device.is_some() {
            return Err(Error::AlreadyBound);
        }
        let at = Place::here();
        let (device, streams) = (device.clone(), Arc::new(Streams::new(device, at)));
        self.device = Some(Driver { device, streams, at });
        Ok(())
    }

    /// The device.
    pub(super) fn device(&self) -> Result<&Device, Error> {
        self.driver().map(|driver| &driver.device)
    }

    /// Where what is shared with the device comes from.
    pub(super) fn streams(&self) -> Result<Arc<Streams>, Error> {
        self.driver().map(|driver| driver.streams.clone())
    }

    fn driver(&self) -> Result<&Driver, Error> {
        self.device.as_ref().ok_or(Error::NotBound)
    }

    /// Whether all memory has been given back.
    pub(super) fn is_idle(&self) -> bool {
        self.coherent.is_empty() && self.shared.is_empty()
    }

    /// Zeroed pages that the device sees: where, and where this process does.
    pub(super) fn allocate(
        &mut self,
        pages: usize,
        direction: BufferDirection,
    ) -> Result<(PhysAddr, NonNull<u8>), Error> {
        let bytes = (pages as u64).checked_mul(PAGE_SIZE).ok_or(protocol::Error::TooLarge)?;
        let access = match direction {
            BufferDirection::DriverToDevice => Access::Read,
            // Devices read back what they wrote.
            BufferDirection::DeviceToDriver | BufferDirection::Both => Access::ReadWrite,
        };
        let Driver { device, at, .. } = self.driver()?;
        let buffer = device.buffer("virtio queue").access(access).allocate_at(*at, bytes)?;
        let Some(iova) = buffer.iova() else { return Err(protocol::Error::BadValue.into()) };
        let memory = buffer.as_ptr();
        self.coherent.insert(iova.get(), buffer);
        Ok((iova.get(), memory))
    }

    /// Gives such pages back. Whether they are some.
    pub(super) fn free(&mut self, address: PhysAddr, memory: NonNull<u8>, pages: usize) -> bool {
        let Some(buffer) = self.coherent.get(&address) else { return false };
        let bytes = pages.checked_mul(PAGE_SIZE as usize);
        if (buffer.as_ptr(), Some(buffer.len())) != (memory, bytes) {
            return false;
        }
        // Dropped, it ends the device's access.
        self.coherent.remove(&address).is_some()
    }

    /// Keeps a copy of this buffer, which is shared. Its address.
    pub(super) fn keep(&mut self, shared: Shared, buffer: NonNull<[u8]>) -> PhysAddr {
        let address = shared.address();
        self.shared.insert(address, (buffer.cast::<u8>().into(), shared));
        address
    }

    /// Takes what was shared: `None` if nothing of this buffer was, of its length and in this direction, at this address.
    /// The address alone would not do: each device has its own, and their numbers are the same.
    pub(super) fn take(
        &mut self,
        address: PhysAddr,
        buffer: NonNull<[u8]>,
        direction: BufferDirection,
    ) -> Option<Shared> {
        let (of, shared) = self.shared.get(&address)?;
        let is_it = *of == buffer.cast::<u8>().into() && shared.len() == buffer.len();
        if !is_it || shared.direction() != direction {
            return None;
        }
        self.shared.remove(&address).map(|(_, shared)| shared)
    }
}
