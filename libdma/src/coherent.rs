//! Coherent memory: typed, seen by CPU and device at once.

use core::marker::PhantomData;
use core::ptr::NonNull;

use dma_types::{Access, CpuAddr, Iova, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::buffer::Buffer;
use crate::device::Device;
use crate::io_address::IoAddress;
use crate::protocol::Error;

/// Memory of a type, seen by CPU and device at once: Linux's `dma_alloc_coherent`.
///
/// It starts as zeroes, lies at the I/O address [`iova`](Self::iova) for the device, and is given back
/// when dropped: the device's access ends with it. `T` is one value, or a slice of them.
///
/// The device may write at any time, so values are copied in and out by volatile access and never
/// borrowed. Each value moves as the compiler splits it: what must be seen in one piece or in an order (a
/// ring's tail, an ownership bit) should be an integer of its own, with a fence before it
/// ([`core::sync::atomic::fence`]).
///
/// `T` must be valid for any bytes, since the device may write any, and have no padding, since all of it
/// is shown to the device.
#[derive(Debug)]
pub struct Coherent<T: ?Sized> {
    buffer: Buffer,
    iova: Iova,
    len: usize,
    of: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> Coherent<T> {
    /// Allocates one value of zeroes.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`].
    pub fn new(device: &Device, access: Access, label: &str) -> Result<Self, Error> {
        let Coherent { buffer, iova, len, .. } = Coherent::<[T]>::new(device, 1, access, label)?;
        Ok(Self { buffer, iova, len, of: PhantomData })
    }

    /// Copies the value out.
    pub fn get(&self) -> T {
        // SAFETY: the buffer holds at least one `T`, page-aligned, any bytes of which are a `T`.
        unsafe { self.as_ptr().read_volatile() }
    }

    /// Copies a value in.
    pub fn set(&self, value: T) {
        // SAFETY: as in `get`, and the memory was mapped writable.
        unsafe { self.as_ptr().write_volatile(value) }
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Coherent<[T]> {
    /// Allocates `len` values of zeroes.
    ///
    /// # Errors
    ///
    /// As [`Device::allocate`]; [`Error::ZeroSize`] for no values, or values of no size, and
    /// [`Error::BadAlignment`] for a type that must be aligned to more than a page.
    pub fn new(device: &Device, len: usize, access: Access, label: &str) -> Result<Self, Error> {
        if align_of::<T>() > PAGE_SIZE as usize {
            return Err(Error::BadAlignment);
        }
        let bytes = len.checked_mul(size_of::<T>()).ok_or(Error::TooLarge)?;
        let buffer = device.allocate(bytes as u64, Some(access), label)?;
        let iova = buffer.iova().ok_or(Error::BadValue)?;
        if buffer.len() < bytes {
            return Err(Error::BadValue);
        }
        Ok(Self { buffer, iova, len, of: PhantomData })
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: memory for no values cannot be allocated.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies a value out.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if there is none of this index.
    pub fn read(&self, index: usize) -> Result<T, Error> {
        let place = self.place(index)?;
        // SAFETY: `place` checked the index; any bytes are a `T`.
        Ok(unsafe { place.read_volatile() })
    }

    /// Copies a value in.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if there is none of this index.
    pub fn write(&self, index: usize, value: T) -> Result<(), Error> {
        let place = self.place(index)?;
        // SAFETY: `place` checked the index, and the memory was mapped writable.
        unsafe { place.write_volatile(value) };
        Ok(())
    }

    /// Where the device sees the value of this index, or `None` if there is none.
    pub fn iova_of(&self, index: usize) -> Option<Iova> {
        if index >= self.len {
            return None;
        }
        self.iova.checked_add((index * size_of::<T>()) as u64)
    }

    fn place(&self, index: usize) -> Result<NonNull<T>, Error> {
        if index >= self.len {
            return Err(Error::OutOfBuffer);
        }
        // SAFETY: the buffer holds `len` values, and the index is below.
        Ok(unsafe { self.as_ptr().add(index) })
    }
}

impl<T: ?Sized> Coherent<T> {
    /// Where the device sees it: what to write into its registers.
    pub fn iova(&self) -> Iova {
        self.iova
    }

    /// The same as an address that knows which device it is of.
    pub fn io_address(&self) -> Option<IoAddress<'_>> {
        self.buffer.io_address()
    }

    /// Where this process sees it.
    pub fn cpu_address(&self) -> CpuAddr {
        self.buffer.cpu_address()
    }

    /// The bytes beneath.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

impl<T: FromBytes + IntoBytes> Coherent<T> {
    /// The value's place, for access to its fields by raw pointers: volatile or atomic only.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.buffer.as_ptr().cast()
    }
}

impl<T: FromBytes + IntoBytes> Coherent<[T]> {
    /// The first value's place, for access to fields by raw pointers: volatile or atomic only.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.buffer.as_ptr().cast()
    }
}
