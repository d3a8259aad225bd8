//! The memory.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use dma_types::{CpuAddr, Iova};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Word;
use crate::buffer::Buffer;
use crate::check::Mark;
use crate::extent::Extent;
use crate::io_address::IoAddress;
use crate::protocol::Error;
use crate::shown;
use crate::window::Block;

/// Memory of a type, seen by CPU and device at once: Linux's `dma_alloc_coherent`.
///
/// ```
/// use core::mem::offset_of;
/// use core::sync::atomic::Ordering;
/// use libdma::Access;
/// use zerocopy::{FromBytes, Immutable, IntoBytes};
///
/// #[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
/// #[repr(C)]
/// struct Descriptor {
///     address: u64,
///     length: u32,
///     owner: u32,
/// }
///
/// # let machine = simulated::Machine::vtd();
/// # let device = machine.open();
/// let packet = device.coherent("packet").access(Access::Read).bytes(1500)?;
/// let ring = device.coherent("tx ring").align(128).slice::<Descriptor>(256)?;
///
/// packet.copy_from(0, b"hello")?;
/// ring.write(3, Descriptor { address: packet.iova().get(), length: 5, owner: 0 })?;
/// // All of the descriptor is written before the device owns it.
/// ring.store(3, offset_of!(Descriptor, owner), 1_u32, Ordering::Release)?;
///
/// let at = ring.iova_of(3).unwrap();
/// assert_eq!(machine.device_reads(at, 16).unwrap()[8..], [5, 0, 0, 0, 1, 0, 0, 0]);
/// # machine.check();
/// # Ok::<(), libdma::Error>(())
/// ```
///
/// It starts as zeroes, lies at the I/O address [`iova`](Self::iova) for the device, and is given back when dropped.
/// [`Device::coherent`](crate::Device::coherent) allocates it. `T` is one value, or a slice of them.
///
/// The device may write at any time, so values are copied in and out by volatile access and never borrowed. A value
/// moves as the compiler splits it: what must be seen in one piece or in an order, as a ring's tail or an ownership bit,
/// is read by [`load`](Self::load) and written by [`store`](Self::store).
///
/// `T` must be valid for any bytes, since the device may write any, and have no padding, since all of it is shown to the
/// device.
///
/// Small ones are pieces of [windows](crate::window): dropping one ends the driver's claim to it, and the device's access
/// only if it is a buffer of its own ([`Builder::alone`](super::Builder::alone)). Before it is dropped, the device should
/// be told to stop using it, as ever.
///
/// It can be sent to another thread, and not be shared with one, since volatile accesses of two threads would race:
///
/// ```compile_fail,E0277
/// fn shared(_: impl Sync) {}
/// fn try_it(ring: libdma::Coherent<[u64]>) {
///     shared(ring);
/// }
/// ```
///
/// Where its values may not be sent to another thread, it may not either:
///
/// ```compile_fail,E0277
/// # use zerocopy::{FromBytes, Immutable, IntoBytes};
/// #[derive(FromBytes, IntoBytes, Immutable)]
/// #[repr(C)]
/// struct Local(u64, core::marker::PhantomData<*const u8>);
/// fn sent<T: Send>() {}
/// sent::<libdma::Coherent<Local>>();
/// ```
///
/// What is not valid for any bytes is no type for it:
///
/// ```compile_fail,E0277
/// fn try_it(device: &libdma::Device) {
///     let flag = device.coherent("flag").value::<bool>();
/// }
/// ```
///
/// And its memory cannot be borrowed:
///
/// ```compile_fail,E0614
/// fn try_it(ring: libdma::Coherent<u64>) -> u64 {
///     *ring
/// }
/// ```
#[must_use = "dropped, its memory is given back, and its address means nothing any more"]
pub struct Coherent<T: ?Sized> {
    block: Block,
    bytes: usize,
    _mark: Mark,
    of: PhantomData<T>,
}

impl<T: FromBytes + IntoBytes + Immutable> Coherent<T> {
    /// Copies the value out.
    pub fn get(&self) -> T {
        // SAFETY: the block holds one `T`, aligned, any bytes of which are a `T`.
        unsafe { self.as_ptr().read_volatile() }
    }

    /// Copies a value in.
    pub fn set(&self, value: T) {
        // SAFETY: as in `get`, and the memory is mapped writable.
        unsafe { self.as_ptr().write_volatile(value) }
    }

    /// Reads an integer in one piece, `offset` bytes into the value.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if it would not lie in the value, [`Error::BadAlignment`] if it is not aligned.
    ///
    /// # Panics
    ///
    /// As atomics do, for an order that stores have.
    pub fn load<W: Word>(&self, offset: usize, order: Ordering) -> Result<W, Error> {
        self.extent().value(0)?.load(offset, order)
    }

    /// Writes an integer in one piece, `offset` bytes into the value.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Panics
    ///
    /// As atomics do, for an order that loads have.
    pub fn store<W: Word>(&self, offset: usize, word: W, order: Ordering) -> Result<(), Error> {
        self.extent().value(0)?.store(offset, word, order)
    }

    fn extent(&self) -> Extent<'_, T> {
        // SAFETY: the block holds one `T`, is this one's alone while it lives, and is mapped writable.
        unsafe { Extent::new(self.as_ptr(), 1) }
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Coherent<[T]> {
    /// How many values there are.
    pub fn len(&self) -> usize {
        // Memory for values of no size cannot be allocated.
        self.bytes.checked_div(size_of::<T>()).unwrap_or(0)
    }

    /// Never: memory for no values cannot be allocated.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        // SAFETY: `place` checked the index, and the memory is mapped writable.
        unsafe { place.write_volatile(value) };
        Ok(())
    }

    /// Copies values in, from `index` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if there are not as many, with nothing copied.
    pub fn copy_from(&self, index: usize, values: &[T]) -> Result<(), Error> {
        self.extent().write(index, values)
    }

    /// Copies values out, from `index` on, into all of `values`.
    ///
    /// # Errors
    ///
    /// As [`copy_from`](Self::copy_from).
    pub fn copy_to(&self, index: usize, values: &mut [T]) -> Result<(), Error> {
        self.extent().read(index, values)
    }

    /// Reads an integer in one piece, `offset` bytes into the value of this index.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if there is no such value or the integer would not lie in it, [`Error::BadAlignment`] if it
    /// is not aligned.
    ///
    /// # Panics
    ///
    /// As atomics do, for an order that stores have.
    pub fn load<W: Word>(&self, index: usize, offset: usize, order: Ordering) -> Result<W, Error> {
        self.extent().value(index)?.load(offset, order)
    }

    /// Writes an integer in one piece, `offset` bytes into the value of this index.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Panics
    ///
    /// As atomics do, for an order that loads have.
    pub fn store<W: Word>(
        &self,
        index: usize,
        offset: usize,
        word: W,
        order: Ordering,
    ) -> Result<(), Error> {
        self.extent().value(index)?.store(offset, word, order)
    }

    /// Where the device sees the value of this index, or `None` if there is none.
    pub fn iova_of(&self, index: usize) -> Option<Iova> {
        if index >= self.len() {
            return None;
        }
        self.iova().checked_add((index * size_of::<T>()) as u64)
    }

    fn extent(&self) -> Extent<'_, T> {
        // SAFETY: the block holds `len` values, is this one's alone while it lives, and is mapped writable.
        unsafe { Extent::new(self.as_ptr(), self.len()) }
    }

    /// The place of the value of this index.
    fn place(&self, index: usize) -> Result<NonNull<T>, Error> {
        self.extent().place(index, 1).ok_or(Error::OutOfBuffer)
    }
}

impl<T: ?Sized> Coherent<T> {
    /// Where the device sees it: what to write into its registers.
    pub fn iova(&self) -> Iova {
        self.block.iova()
    }

    /// The same as an address that knows which device it is of.
    pub fn io_address(&self) -> IoAddress<'_> {
        IoAddress::new(self.block.session(), self.block.iova(), self.bytes as u64)
    }

    /// Where this process sees it.
    pub fn cpu_address(&self) -> CpuAddr {
        self.block.as_ptr().into()
    }

    /// How many bytes it is.
    pub fn byte_len(&self) -> usize {
        self.bytes
    }

    /// The buffer that it is all of, or `None` if it shares a window.
    pub fn buffer(&self) -> Option<&Buffer> {
        self.block.buffer()
    }
}

impl<T: ?Sized> fmt::Debug for Coherent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, bytes) = (self.block.session().address(), self.byte_len() as u64);
        shown::guard(f, "Coherent", device, Some(self.iova()), bytes).finish()
    }
}

impl<T: FromBytes + IntoBytes> Coherent<T> {
    /// The value's place, for access to its fields by raw pointers: volatile or atomic only.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.block.as_ptr().cast()
    }
}

impl<T: FromBytes + IntoBytes> Coherent<[T]> {
    /// The first value's place, for access to fields by raw pointers: volatile or atomic only.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.block.as_ptr().cast()
    }
}

impl<T: ?Sized> Coherent<T> {
    /// Puts a type on a block.
    ///
    /// # Safety
    ///
    /// It is `bytes` long, and aligned for this type: one value, or as many as that is long, any bytes of which are one.
    #[inline]
    pub(super) unsafe fn from_block((block, _mark): (Block, Mark), bytes: usize) -> Self {
        Self { block, bytes, _mark, of: PhantomData }
    }
}
