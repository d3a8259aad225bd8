//! Ranges at hand: given out and taken back without a search.
//!
//! What is asked for most is a range of a size that was freed lately, by who asked within the same bounds before. Such a one is
//! looked at first, with its record, and taken or freed by few stores when all else is known to go well.

use dma_types::Iova;

use super::allocator::{IovaAllocator, Reach};
use super::held::{Extent, Held, Place};
use super::magazine::Magazine;
use super::notes::page_at;
use super::request::IovaRequest;
use crate::table::format::PAGE_SHIFT;

/// A free range that suits a request. It stays free if nothing is done with it.
#[derive(Debug)]
pub(crate) struct Idle<'a, N> {
    magazine: &'a mut Magazine,
    held: &'a mut Held<N>,
    iova: Iova,
}

impl<N> Idle<'_, N> {
    /// Where it starts.
    #[inline]
    pub(crate) fn iova(&self) -> Iova {
        self.iova
    }

    /// Gives it out.
    #[inline]
    pub(crate) fn take(self) -> Iova {
        self.magazine.drop_last();
        self.held.extent = self.held.extent.live();
        self.iova
    }

    /// Gives it out, with something noted of it.
    #[inline]
    pub(crate) fn take_noted(self, note: N) {
        self.magazine.drop_last();
        let extent = self.held.extent.live_and_noted();
        *self.held = Held { extent, note };
    }
}

/// A range that was given out, with something noted of it, and may be freed at once. It stays as it is if nothing is done with
/// it.
#[derive(Debug)]
pub(crate) struct Live<'a, N> {
    magazine: &'a mut Magazine,
    held: &'a mut Held<N>,
    place: Place,
}

impl<N: Copy> Live<'_, N> {
    /// What is noted of it.
    #[inline]
    pub(crate) fn note(&self) -> N {
        self.held.note
    }

    /// Takes it back.
    #[inline]
    pub(crate) fn free(self) {
        let is_put = self.magazine.put(self.place);
        debug_assert!(is_put);
        self.held.extent = self.held.extent.idle();
    }

    /// Forgets what is noted of it, and has it stay given out.
    #[inline]
    pub(crate) fn forget(self) {
        self.held.extent = self.held.extent.without_note();
    }
}

impl<N: Copy + Default> IovaAllocator<N> {
    /// The range freed last of those of this size, if it is what [`alloc`](Self::alloc) would come to and the request before
    /// had the same bounds.
    #[inline(always)]
    pub(crate) fn idle_at_hand(&mut self, request: &IovaRequest) -> Option<Idle<'_, N>> {
        let IovaRequest { bytes, align, first, limit } = *request;
        let Reach { floor, end, .. } = self.reach;
        if (align, first, limit) != (self.reach.align, self.reach.first, self.reach.limit) {
            return None;
        }
        let magazine = self.idle.of_bytes(bytes)?;
        let place = magazine.last()?;
        let iova = place.start << PAGE_SHIFT;
        if iova < floor || iova + bytes > end || iova & (align - 1) != 0 {
            return None;
        }
        Some(Idle { magazine, held: self.held.at(place), iova: Iova::new(iova) })
    }

    /// The live allocation that is exactly `bytes` at `iova`, with a guard, if something is noted of it and its magazine has
    /// room for it.
    #[inline(always)]
    pub(crate) fn live_at_hand(&mut self, iova: Iova, bytes: u64) -> Option<Live<'_, N>> {
        let magazine = self.idle.of_bytes(bytes).filter(|it| it.has_room())?;
        let start = page_at(iova)?;
        let (place, held) = self.held.find(start)?;
        // What is freed piece by piece is to be joined with what follows it.
        let is_alone = self.loose.end != start;
        let extent = held.extent.with_pad(0);
        (extent == Extent::noted_with_guard(bytes) && is_alone).then_some(Live {
            magazine,
            held,
            place,
        })
    }
}
