//! The crate's `Hal`.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use virtio_drivers::transport::Transport;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use super::binding::{Binding, Bound};
use super::error::Error;
use super::registers::Registers;
use super::shared::Shared;
use super::transport::Translated;
use crate::device::Device;

/// Which of a process's devices a [`DeviceHal`] is of: a type of the driver's. See [the module](super) for an example.
///
/// Two tags with one binding are of the same device. A binding that is not the same each time is of no use, and no
/// danger either: what is given by one is known to that alone.
pub trait Tag: 'static {
    /// Where the device is kept: a static.
    fn binding() -> &'static Binding;
}

/// `virtio-drivers`' [`Hal`] of the device that is bound to a [`Tag`].
///
/// It has no values; all its functions are the type's. See [the module](super) for how it gives memory, and when it
/// panics.
pub struct DeviceHal<T>(PhantomData<fn() -> T>);

impl<T: Tag> DeviceHal<T> {
    /// Binds a device to the tag. Its limits are to be set before. Its session then goes on until [`unbind`](Self::unbind), or to the end of the process.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyBound`].
    #[track_caller]
    pub fn bind(device: &Device) -> Result<(), Error> {
        T::binding().lock().bind(device)
    }

    /// Leaves the tag without a device and without registers, so that another can be bound.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] as long as a driver has not given back all that it allocated and shared, with nothing changed.
    pub fn unbind() -> Result<(), Error> {
        let mut bound = T::binding().lock();
        if !bound.is_idle() {
            return Err(Error::InUse);
        }
        *bound = Bound::NONE;
        Ok(())
    }

    /// Says where registers of the device are mapped in this process, before a transport that looks for them is made:
    /// a BAR, at the address that the BAR has in configuration space.
    ///
    /// # Safety
    ///
    /// `bytes` bytes are mapped at `memory` for reading and writing, uncached, to the end of the process; they are
    /// registers and no part of any Rust object, and are reached in no other way than by the transports that are
    /// made with this tag.
    pub unsafe fn add_registers(physical: PhysAddr, memory: NonNull<u8>, bytes: usize) {
        T::binding().lock().registers.push(Registers { physical, memory, bytes });
    }

    /// Resets a device, and gives its transport so that the device goes through the IOMMU: see [`Translated`].
    ///
    /// # Errors
    ///
    /// [`Error::NotTranslated`] if it would not although the device is confined, [`Error::NoReset`],
    /// [`Error::NotBound`].
    pub fn translate<R: Transport>(transport: R) -> Result<Translated<R>, Error> {
        let is_confined = T::binding().lock().device()?.is_confined();
        Translated::new(transport, is_confined)
    }

    /// Why memory was last refused, where the crate says no more than `Error::DmaError`. It is told once.
    pub fn take_error() -> Option<Error> {
        T::binding().lock().error.take()
    }
}

// SAFETY: for each of the functions it is said there.
unsafe impl<T: Tag> Hal for DeviceHal<T> {
    // What is given is a whole buffer of iommud's: mapped for this buffer alone, from the start of a page on, zeroed
    // (rule R8), no part of any Rust object, and kept in the binding until `dma_dealloc`.
    fn dma_alloc(pages: usize, direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let mut bound = T::binding().lock();
        bound.allocate(pages, direction).unwrap_or_else(|error| {
            bound.error = Some(error);
            // Zero stands for failure: no device is ever given page zero.
            (0, NonNull::dangling())
        })
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        if T::binding().lock().free(paddr, vaddr, pages) { 0 } else { -1 }
    }

    // What is given lies whole in registers that `add_registers` was promised to be mapped to the end of the process,
    // and to be nobody else's.
    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        let bound = T::binding().lock();
        match bound.registers.iter().find_map(|registers| registers.find(paddr, size)) {
            Some(memory) => memory,
            None => panic!(
                "the virtio device has registers of {size} bytes at {paddr:#x}, where none of it are mapped"
            ),
        }
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let streams = T::binding().lock().streams();
        // SAFETY: the caller's buffer is valid, and nobody writes to it during this call.
        let bytes = unsafe { buffer.as_ref() };
        let shared = streams
            .and_then(|streams| Shared::new(&streams, bytes, direction).map_err(Error::Iommud));
        match shared {
            Ok(shared) => T::binding().lock().keep(shared, buffer),
            Err(error) => panic!("cannot show {} bytes to the virtio device: {error}", bytes.len()),
        }
    }

    unsafe fn unshare(paddr: PhysAddr, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        let shared = T::binding().lock().take(paddr, buffer, direction);
        let Some(shared) = shared else {
            panic!("{} bytes at I/O {paddr:#x} are not shared so ({direction:?})", buffer.len());
        };
        let ended = match direction {
            // It may be a buffer that is only lent for reading.
            BufferDirection::DriverToDevice => shared.end(&mut []),
            // SAFETY: the caller's buffer is valid and for the device to write to, and nobody else's for this call.
            BufferDirection::DeviceToDriver | BufferDirection::Both => unsafe {
                shared.end(buffer.as_mut())
            },
        };
        if let Err(error) = ended {
            panic!("what the virtio device wrote cannot be brought back: {error}");
        }
    }
}

impl<T> fmt::Debug for DeviceHal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceHal")
    }
}
