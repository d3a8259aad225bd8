//! Allocations that are taken back.
//!
//! Most go into a magazine, for the next request of their size. Pieces of a chain, which have no guards between them, are joined
//! first; what no magazine has room for is among the free ranges.

use core::mem;

use dma_types::{Iova, PAGE_SIZE};

use super::allocator::{IovaAllocator, range_of};
use super::error::IovaError;
use super::free::FreeRanges;
use super::held::{Extent, Held, HeldRanges, Place};
use crate::table::format::PAGE_SHIFT;

/// Free pages that are to be joined with what is freed next: none if `end` is zero.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Loose {
    start: u64,
    pub(super) end: u64,
}

impl<N: Copy + Default> IovaAllocator<N> {
    /// Takes back the allocation that is exactly `bytes` at `iova`, and its guard. It may be given out
    /// again at once: free only what no unit can still translate (rule R2).
    ///
    /// # Errors
    ///
    /// [`NotAllocated`](IovaError::NotAllocated) if no allocation starts there, or
    /// [`SizeMismatch`](IovaError::SizeMismatch) if it has another size (rule R7).
    #[inline]
    pub fn free(&mut self, iova: Iova, bytes: u64) -> Result<(), IovaError> {
        if iova.is_aligned(PAGE_SIZE)
            && let Some((place, held)) = self.held.find(iova.get() >> PAGE_SHIFT)
            && held.extent.is_live_with_guard(bytes)
            && self.loose.end != place.start
            && let Some(magazine) = self.idle.of_bytes(bytes)
            && magazine.put(place)
        {
            held.extent = held.extent.idle();
            return Ok(());
        }
        self.free_slowly(iova, bytes)
    }

    /// The same, where there is no room in a magazine, or something is wrong.
    #[inline(never)]
    fn free_slowly(&mut self, iova: Iova, bytes: u64) -> Result<(), IovaError> {
        let start = iova.get() >> PAGE_SHIFT;
        let known = self.held.find(start);
        let known = known.filter(|(_, it)| !it.extent.is_idle() && iova.is_aligned(PAGE_SIZE));
        let (place, held) = known.ok_or(IovaError::NotAllocated { iova })?;
        let extent = held.extent;
        if extent.bytes() != bytes {
            return Err(IovaError::SizeMismatch {
                allocation: range_of(start, extent.pages()),
                bytes,
            });
        }
        let ends_pieces = extent.has_guard() && self.loose.end != start;
        match self.idle.of_bytes(bytes).filter(|_| ends_pieces) {
            Some(_) => {
                held.extent = extent.idle();
                self.put_by(place, bytes);
            }
            None => self.loosen(start, extent),
        }
        Ok(())
    }

    /// Takes back several allocations, as [`free`](Self::free) does each. What no magazine has room for is free at one go where
    /// it lies side by side, with guards and pads.
    ///
    /// # Errors
    ///
    /// As [`free`](Self::free), when those before are free.
    pub fn free_all(&mut self, ranges: &[(Iova, u64)]) -> Result<(), IovaError> {
        let (mut joined, mut result) = (0..0, Ok(()));
        for &(iova, bytes) in ranges {
            let start = iova.get() >> PAGE_SHIFT;
            let has_no_place = iova.is_aligned(PAGE_SIZE)
                && self.idle.of_bytes(bytes).is_some_and(|magazine| magazine.is_full())
                && self.held.find(start).is_some_and(|(_, it)| it.extent.is_live_with_guard(bytes))
                && self.loose.end != start;
            let Some(extent) = has_no_place.then(|| self.held.remove(start)).flatten() else {
                result = self.free(iova, bytes);
                if result.is_err() {
                    break;
                }
                continue;
            };
            if joined.end != start {
                self.free.give_some(mem::replace(&mut joined, start..start));
            }
            joined.end = start + extent.span();
        }
        self.free.give_some(joined);
        result
    }

    /// Puts an idle range of so many bytes into its magazine.
    fn put_by(&mut self, place: Place, bytes: u64) {
        let Self { held, free, idle, .. } = self;
        let Some(magazine) = idle.of_bytes(bytes) else { return };
        if !magazine.put(place) {
            let spilt = magazine.make_room().iter();
            free.give_all(
                spilt.filter_map(|it| Some(it.start..it.start + held.remove(it.start)?.span())),
            );
            magazine.put(place);
        }
    }

    /// Makes a held range free: one with what lies before it, if that was freed last. Pieces of a chain are one idle range again
    /// with the last of them, if there is a magazine for it.
    fn loosen(&mut self, start: u64, extent: Extent) {
        self.held.remove(start);
        if self.loose.end != start {
            self.settle();
            self.loose.start = start;
        }
        self.loose.end = start + extent.span();
        let Loose { start, end } = self.loose;
        let bytes = (end - 1 - start) << PAGE_SHIFT;
        if extent.has_guard() && extent.pad() == 0 && self.idle.of_bytes(bytes).is_some() {
            self.loose = Loose::default();
            let extent = Extent::idle_with_guard(bytes);
            let place = self.held.insert(start, Held { extent, note: N::default() });
            self.put_by(place, bytes);
        }
    }

    /// Puts what was freed last piece by piece among the free ranges.
    #[inline]
    pub(super) fn settle(&mut self) {
        let Loose { start, end } = mem::take(&mut self.loose);
        if end != 0 {
            self.free.give(start, end);
        }
    }

    /// Makes everything idle free.
    #[inline]
    pub(super) fn merge_idle(&mut self) {
        for Place { start, .. } in self.idle.drain() {
            release(&mut self.held, &mut self.free, start);
        }
    }
}

/// Makes the held range at page `start`, which is in no magazine any more, free.
#[inline]
pub(super) fn release<N: Copy>(held: &mut HeldRanges<N>, free: &mut FreeRanges, start: u64) {
    if let Some(extent) = held.remove(start) {
        free.give(start, start + extent.span());
    }
}
