//! A block of a pool.

use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use dma_types::{CpuAddr, Iova};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::slots::Slot;
use super::supply::{Given, Supply};
use crate::coherent::Word;
use crate::extent::Extent;
use crate::io_address::{BusAddress, IoAddress};
use crate::protocol::Error;
use crate::shown;

/// A block of a [`Pool`](super::Pool): a `T`, or untyped bytes. Dropped, it is given back: Linux's `dma_pool_free`.
///
/// The device may write to it at any time, so values are copied in and out by volatile access and never borrowed, as with
/// [`Coherent`](crate::Coherent). What must be seen in one piece or in an order is read by [`load`](Self::load) and written
/// by [`store`](Self::store):
///
/// ```
/// use core::mem::offset_of;
/// use core::sync::atomic::Ordering;
/// use zerocopy::{FromBytes, Immutable, IntoBytes};
///
/// #[derive(FromBytes, IntoBytes, Immutable)]
/// #[repr(C)]
/// struct Descriptor {
///     address: u64,
///     length: u32,
///     owner: u32,
/// }
/// const OWNER: usize = offset_of!(Descriptor, owner);
///
/// # let machine = simulated::Machine::vtd();
/// # let device = machine.open();
/// # let packet = device.coherent("packet").bytes(5)?;
/// let descriptors = device.pool("descriptors").of::<Descriptor>()?;
/// let descriptor = descriptors.alloc()?;
/// descriptor.set(Descriptor { address: packet.iova().get(), length: 5, owner: 0 });
/// // All of it is written before the device owns it.
/// descriptor.store(OWNER, 1_u32, Ordering::Release)?;
///
/// // The device is done with it:
/// # assert_eq!(machine.device_reads(descriptor.iova(), 16).unwrap()[8..], [5, 0, 0, 0, 1, 0, 0, 0]);
/// # machine.device_writes(libdma::Iova::new(descriptor.iova().get() + 12), &[0; 4]).unwrap();
/// assert_eq!(descriptor.load::<u32>(OWNER, Ordering::Acquire)?, 0);
/// # Ok::<(), libdma::Error>(())
/// ```
///
/// Giving it back ends the driver's claim and not the device's access: the memory stays
/// mapped for the device, and is the next one's to whom the pool gives it. A driver therefore gives back what its device
/// has finished with.
///
/// It is given back once, and what was left to the device is no more the driver's to touch:
///
/// ```compile_fail,E0382
/// # fn f(block: libdma::PoolBlock<u64>) {
/// drop(block);
/// drop(block);
/// # }
/// ```
///
/// ```compile_fail,E0382
/// # fn f(block: libdma::PoolBlock<u64>) {
/// let address = block.into_address();
/// block.set(1);
/// # }
/// ```
///
/// It can be sent to another thread, and not be shared with one, since volatile accesses of two threads would race; a
/// pool can be shared:
///
/// ```compile_fail,E0277
/// fn shared(_: impl Sync) {}
/// # fn f(block: libdma::PoolBlock<u64>) {
/// shared(block);
/// # }
/// ```
///
/// Where what is in it may not be sent to another thread, it may not either:
///
/// ```compile_fail,E0277
/// # use zerocopy::{FromBytes, Immutable, IntoBytes};
/// #[derive(FromBytes, IntoBytes, Immutable)]
/// #[repr(C)]
/// struct Local(u64, core::marker::PhantomData<*const u8>);
/// fn sent<T: Send>() {}
/// sent::<libdma::PoolBlock<Local>>();
/// ```
///
/// ```
/// fn sent(_: impl Send) {}
/// fn shared(_: impl Send + Sync) {}
/// # fn f(pool: libdma::Pool<u64>, block: libdma::PoolBlock<u64>) {
/// shared(pool);
/// sent(block);
/// # }
/// ```
///
/// What is not valid for any bytes is no type for it, and its memory cannot be borrowed:
///
/// ```compile_fail,E0277
/// # fn f(device: &libdma::Device) {
/// let flags = device.pool("flags").of::<bool>();
/// # }
/// ```
///
/// ```compile_fail,E0614
/// # fn f(block: libdma::PoolBlock<u64>) -> u64 {
/// *block
/// # }
/// ```
#[must_use = "dropped, the block is the pool's again, and the next one's to whom it is given"]
pub struct PoolBlock<T: ?Sized> {
    given: ManuallyDrop<Given>,
    of: PhantomData<T>,
    /// Two threads that reach the same memory by volatile access race. It may move between threads.
    not_sync: PhantomData<core::cell::Cell<u8>>,
}

impl<T: ?Sized> PoolBlock<T> {
    /// A block that was given out. It has a `T` in it, whatever its bytes.
    #[inline]
    pub(super) fn new(slot: Slot, supply: &Arc<Supply>) -> Self {
        let given = ManuallyDrop::new(Given::new(slot, supply));
        Self { given, of: PhantomData, not_sync: PhantomData }
    }

    /// Where the device sees it.
    #[inline]
    pub fn iova(&self) -> Iova {
        self.given.slot().iova()
    }

    /// The same as an address that knows which device it is of.
    pub fn io_address(&self) -> IoAddress<'_> {
        IoAddress::new(self.given.supply().session(), self.given.slot().iova(), self.bytes() as u64)
    }

    /// Where this process sees it.
    pub fn cpu_address(&self) -> CpuAddr {
        self.given.slot().memory().into()
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.given.supply().shape().bytes
    }

    /// Reads an integer in one piece, `offset` bytes into the block: an ownership bit, say, that the device changes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if it would not lie in the block, [`Error::BadAlignment`] if it is not aligned.
    ///
    /// # Panics
    ///
    /// As atomics do, for an order that stores have.
    #[inline]
    pub fn load<W: Word>(&self, offset: usize, order: Ordering) -> Result<W, Error> {
        self.extent().load(offset, order)
    }

    /// Writes an integer in one piece, `offset` bytes into the block.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Panics
    ///
    /// As atomics do, for an order that loads have.
    #[inline]
    pub fn store<W: Word>(&self, offset: usize, word: W, order: Ordering) -> Result<(), Error> {
        self.extent().store(offset, word, order)
    }

    #[inline]
    fn extent(&self) -> Extent<'_> {
        // SAFETY: the block is this one's alone while it lives, and mapped writable.
        unsafe { Extent::new(self.given.slot().memory(), self.bytes()) }
    }

    /// Leaves it to the device: what stays is its address, whose [number](BusAddress::iova) goes into a descriptor or a
    /// register, and by which [`Pool::take`](super::Pool::take) gets it back.
    #[must_use = "the block can only be got back by its address"]
    pub fn into_address(self) -> BusAddress {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither dropped nor used again.
        unsafe { ManuallyDrop::take(&mut this.given) }.leave()
    }
}

impl<T: FromBytes + IntoBytes + Immutable> PoolBlock<T> {
    /// Copies the value out.
    #[inline]
    pub fn get(&self) -> T {
        // SAFETY: the block is as long as a `T`, aligned for one, and this one's alone; any bytes are a `T`.
        unsafe { self.as_ptr().read_volatile() }
    }

    /// Copies a value in.
    #[inline]
    pub fn set(&self, value: T) {
        // SAFETY: as in `get`, and the memory is mapped writable.
        unsafe { self.as_ptr().write_volatile(value) }
    }

    /// The value's place, for access to its fields by raw pointers: volatile or atomic only.
    #[inline]
    pub fn as_ptr(&self) -> NonNull<T> {
        self.given.slot().memory().cast()
    }
}

impl PoolBlock<[u8]> {
    /// The place of its first byte, for raw pointers: volatile or atomic only.
    #[inline]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.given.slot().memory()
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
    /// [`Error::OutOfBuffer`], with nothing copied.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), Error> {
        self.extent().write(offset, data)
    }
}

impl<T: ?Sized> Drop for PoolBlock<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: it is dropped, so that nobody uses it again.
        unsafe { ManuallyDrop::take(&mut self.given) }.give_back_dropped();
    }
}

impl<T: ?Sized> fmt::Debug for PoolBlock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, bytes) = (self.given.supply().session().address(), self.bytes() as u64);
        shown::guard(f, "PoolBlock", device, Some(self.iova()), bytes).finish()
    }
}
