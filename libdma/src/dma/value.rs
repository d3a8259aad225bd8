//! Memory of a type.

use core::mem::{ManuallyDrop, MaybeUninit};
use core::ops::{Deref, DerefMut};
use core::ptr;

use libredox_01::error::Result;

use super::error::DmaError;
use super::memory::Memory;

/// Memory of a type that this process and its device both see: base's `common::dma::Dma`.
///
/// It lies in whole pages, and at an address that is a multiple of its size rounded up to a power of two, up to
/// 4 MiB; below 4 GiB as long as there is room. Dropping it drops the value, then ends the device's access, then
/// gives the memory back.
///
/// The type keeps base's unsoundness; see [the module](super), which also says where the memory comes from. New
/// code should use [`Coherent`](crate::Coherent). As base's, it is [neither `Send` nor `Sync`](crate#threads).
///
/// ```compile_fail,E0277
/// fn sent<T: Send>() {}
/// sent::<libdma::Dma<u64>>();
/// ```
///
/// # Errors
///
/// All constructors return libredox's error, as base's do, with the errno of a [`DmaError`].
#[must_use = "dropped, it is given back, and its address means nothing any more"]
pub struct Dma<T: ?Sized> {
    /// Points into `memory`, which holds a whole `T` there, aligned.
    value: *mut T,
    device_address: usize,
    memory: Memory,
}

impl<T> Dma<T> {
    /// Memory that holds this value.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed). The value is dropped then.
    #[track_caller]
    pub fn new(value: T) -> Result<Self> {
        let mut memory = Self::zeroed()?;
        memory.write(value);
        // SAFETY: it was written just now.
        Ok(unsafe { memory.assume_init() })
    }

    /// Memory of zeroes for one value.
    ///
    /// # Errors
    ///
    /// libredox's, by [`DmaError::errno`]: `ENODEV` where no device was handed to this process, which [`check`](super::check)
    /// tells more of; `ENOMEM` if it is more than can be had in one piece, `EINVAL` for a type of no size, or one that must be
    /// aligned to more than 4096 bytes; and what iommud or the memory scheme says, such as `EDQUOT`.
    #[track_caller]
    pub fn zeroed() -> Result<Dma<MaybeUninit<T>>> {
        let (memory, start, device_address) = allocate::<T>(1)?;
        Ok(Dma { value: start.cast(), device_address, memory })
    }
}

impl<T> Dma<[T]> {
    /// Memory of zeroes for `count` values.
    ///
    /// # Errors
    ///
    /// As [`Dma::zeroed`]; `EINVAL` for no values, and `ENOMEM` for more than an address can count.
    #[track_caller]
    pub fn zeroed_slice(count: usize) -> Result<Dma<[MaybeUninit<T>]>> {
        let (memory, start, device_address) = allocate::<T>(count)?;
        let value = ptr::slice_from_raw_parts_mut(start.cast(), count);
        Ok(Dma { value, device_address, memory })
    }

    /// The same memory as values of another type, as many as there were of this.
    ///
    /// # Safety
    ///
    /// A `U` is no longer than a `T` and aligned to no more than 4096 bytes, what is there is a valid `U`, and
    /// need not be dropped as a `T`.
    pub unsafe fn cast_slice<U>(self) -> Dma<[U]> {
        self.recast(|value| value as *mut [U])
    }
}

impl<T> Dma<MaybeUninit<T>> {
    /// The same memory, as a value that is there.
    ///
    /// # Safety
    ///
    /// What is there is a valid `T`: zeroes, if nothing else was written.
    pub unsafe fn assume_init(self) -> Dma<T> {
        self.recast(|value| value.cast())
    }
}

impl<T> Dma<[MaybeUninit<T>]> {
    /// The same memory, as values that are there.
    ///
    /// # Safety
    ///
    /// What is there are valid `T`s: zeroes, if nothing else was written.
    pub unsafe fn assume_init(self) -> Dma<[T]> {
        self.recast(|value| value as *mut [T])
    }
}

impl<T: ?Sized> Dma<T> {
    /// The address to give the device. Behind an IOMMU that is no physical address, whatever its name: it means
    /// something to this device alone.
    pub fn physical(&self) -> usize {
        self.device_address
    }

    /// The same memory under a pointer of another type; the value is not dropped.
    fn recast<U: ?Sized>(self, cast: impl FnOnce(*mut T) -> *mut U) -> Dma<U> {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither dropped nor used after its memory has been moved out.
        let memory = unsafe { ptr::read(&this.memory) };
        Dma { value: cast(this.value), device_address: this.device_address, memory }
    }
}

impl<T: ?Sized> Deref for Dma<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a whole aligned `T` is there, as long as `self` lives. That the device may write it is the
        // unsoundness that this type keeps; the module says so.
        unsafe { &*self.value }
    }
}

impl<T: ?Sized> DerefMut for Dma<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { &mut *self.value }
    }
}

impl<T: ?Sized> Drop for Dma<T> {
    fn drop(&mut self) {
        // SAFETY: the value is there and not used any more. Its memory goes after it, with its field.
        unsafe { ptr::drop_in_place(self.value) };
    }
}

/// Zeroes for this many values: the memory, where it starts, and where it does for the device.
#[track_caller]
fn allocate<T>(count: usize) -> core::result::Result<(Memory, *mut u8, usize), DmaError> {
    let bytes = size_of::<T>();
    let whole = count.checked_mul(bytes).ok_or(DmaError::Overflow { count, bytes })?;
    let memory = Memory::allocate(whole)?;
    let start = memory.start().as_ptr();
    if !start.cast::<T>().is_aligned() {
        return Err(DmaError::BadAlignment(align_of::<T>()));
    }
    if memory.len() < whole {
        return Err(DmaError::TooLarge(whole));
    }
    let device_address = memory.device_address()?;
    Ok((memory, start, device_address))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ring(#[allow(dead_code, reason = "only its type matters")] [u64; 2]);
    type RawRing = Dma<MaybeUninit<Ring>>;
    type RawRings = Dma<[MaybeUninit<Ring>]>;

    /// Base's signatures (base 9e128703, `drivers/common/src/dma.rs`), to the letter.
    #[test]
    fn the_signatures_are_those_of_base() {
        let _: fn(Ring) -> Result<Dma<Ring>> = Dma::<Ring>::new;
        let _: fn() -> Result<RawRing> = Dma::<Ring>::zeroed;
        let _: fn(usize) -> Result<RawRings> = Dma::<[Ring]>::zeroed_slice;
        let _: unsafe fn(RawRing) -> Dma<Ring> = RawRing::assume_init;
        let _: unsafe fn(RawRings) -> Dma<[Ring]> = RawRings::assume_init;
        let _: unsafe fn(Dma<[Ring]>) -> Dma<[u8]> = Dma::<[Ring]>::cast_slice::<u8>;
        let _: fn(&Dma<Ring>) -> usize = Dma::<Ring>::physical;
        let _: fn(&Dma<[Ring]>) -> usize = Dma::<[Ring]>::physical;
        let _: fn(&Dma<Ring>) -> &Ring = Deref::deref;
        let _: fn(&mut Dma<[Ring]>) -> &mut [Ring] = DerefMut::deref_mut;
        // What base's drivers lean on besides: a type without a size, and one that is dropped.
        let _: fn(Dma<dyn Send>) = drop;
    }
}
