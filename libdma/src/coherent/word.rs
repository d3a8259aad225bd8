//! What is read and written in one piece.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

mod sealed {
    pub trait Sealed {}
}

/// An integer that is read and written in one piece, in an order with what is around it: `u8`, `u16`, `u32` and `u64`.
pub trait Word: sealed::Sealed + Copy + 'static {
    /// Reads one.
    ///
    /// # Safety
    ///
    /// `place` is valid for reads and aligned, and no other thread writes there but atomically.
    #[doc(hidden)]
    unsafe fn load(place: NonNull<Self>, order: Ordering) -> Self;

    /// Writes one.
    ///
    /// # Safety
    ///
    /// As [`load`](Self::load), and `place` is valid for writes.
    #[doc(hidden)]
    unsafe fn store(self, place: NonNull<Self>, order: Ordering);
}

macro_rules! words {
    ($($word:ty as $atomic:ty),*) => {
        $(
            impl sealed::Sealed for $word {}

            impl Word for $word {
                unsafe fn load(place: NonNull<Self>, order: Ordering) -> Self {
                    // SAFETY: the caller's promise is what this asks for.
                    unsafe { <$atomic>::from_ptr(place.as_ptr()) }.load(order)
                }

                unsafe fn store(self, place: NonNull<Self>, order: Ordering) {
                    // SAFETY: as in `load`.
                    unsafe { <$atomic>::from_ptr(place.as_ptr()) }.store(self, order);
                }
            }
        )*
    };
}

words!(u8 as AtomicU8, u16 as AtomicU16, u32 as AtomicU32, u64 as AtomicU64);
