//! A pool.

use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;

use super::supply::{Given, Supply};
use super::{NotTaken, PoolBlock, PoolStats};
use crate::check::{Mark, Place};
use crate::copy;
use crate::io_address::BusAddress;
use crate::protocol::Error;

/// Blocks of one size, in memory that is mapped for a device all the time: Linux's `struct dma_pool`.
///
/// [`Device::pool`](crate::Device::pool) begins one. `T` is what is in a block: one value, or untyped bytes (`[u8]`).
///
/// Giving a block out and taking it back costs no word to iommud, no search and no allocation; when all are given
/// out, the pool asks the device's windows for a chunk more. Threads may share a pool by reference.
///
/// Dropping it (Linux's `dma_pool_destroy`) is sound while blocks are given out: they keep the memory. One that was left
/// to the device ([`PoolBlock::into_address`]) can then be got back by nobody; its memory stays the device's until the
/// device is closed. The [checker](crate::check) reports both.
///
/// It is [`Send` and `Sync`](crate#threads).
pub struct Pool<T: ?Sized> {
    supply: Arc<Supply>,
    #[allow(dead_code, reason = "it is dropped with the pool")]
    mark: Mark,
    of: PhantomData<fn() -> *const T>,
}

impl<T: ?Sized> Pool<T> {
    /// A pool whose blocks are long enough for a `T`, and aligned for it; and any bytes are one.
    #[track_caller]
    pub(super) fn new(supply: Supply) -> Self {
        let mark = supply.mark();
        Self { supply: Arc::new(supply), mark, of: PhantomData }
    }

    /// Gives a block out: Linux's `dma_pool_alloc`. What is in it is what was in it before, if the
    /// [checker](crate::check) has not put a pattern there.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::NoAddressSpace`] under the device's coherent mask,
    /// [`Error::QuotaExceeded`]. The pool is as it was.
    #[track_caller]
    #[inline]
    pub fn alloc(&self) -> Result<PoolBlock<T>, Error> {
        match self.supply.give_out_free() {
            Some(slot) => Ok(PoolBlock::new(slot, &self.supply)),
            None => self.alloc_otherwise(),
        }
    }

    /// The same where the checker is told, or there is no block.
    #[track_caller]
    #[cold]
    fn alloc_otherwise(&self) -> Result<PoolBlock<T>, Error> {
        Ok(PoolBlock::new(self.supply.give_out()?, &self.supply))
    }

    /// Gives a block of zeroes out: Linux's `dma_pool_zalloc`.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc).
    #[track_caller]
    #[inline]
    pub fn alloc_zeroed(&self) -> Result<PoolBlock<T>, Error> {
        let slot = self.supply.give_out()?;
        // SAFETY: the block has so many bytes, and is nobody's yet but this function's.
        unsafe { copy::zero(slot.memory(), self.supply.shape().bytes) };
        Ok(PoolBlock::new(slot, &self.supply))
    }

    /// Gets back a block that was left to the device, by its I/O address. Where the device itself has named the block,
    /// as in a ring of what it has done, [`Device::bus_address`](crate::Device::bus_address) makes that an address of this
    /// device.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] says why not, [`NotTaken::WrongDevice`] for an address of another device or domain; the pool is as it
    /// was.
    #[track_caller]
    pub fn take(&self, address: BusAddress) -> Result<PoolBlock<T>, NotTaken> {
        Ok(PoolBlock::new(self.supply.take(address)?, &self.supply))
    }

    /// Gives back a block that was left to the device: Linux's `dma_pool_free`, which asks for both addresses.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    #[track_caller]
    pub fn free(&self, address: BusAddress) -> Result<(), NotTaken> {
        let slot = self.supply.take(address)?;
        Given::new(slot, &self.supply).give_back(Some(Place::here()));
        Ok(())
    }

    /// Gives all chunks in which no block is given out back to the device's windows; how many those were.
    pub fn shrink(&self) -> usize {
        self.supply.shrink()
    }

    /// How much of it is used.
    pub fn stats(&self) -> PoolStats {
        self.supply.stats()
    }
}

impl<T: ?Sized> Drop for Pool<T> {
    fn drop(&mut self) {
        self.supply.end_pool();
    }
}

impl<T: ?Sized> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.stats()).finish()
    }
}
