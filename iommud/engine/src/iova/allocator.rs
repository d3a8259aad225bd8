//! Who holds which addresses of one I/O address space.
//!
//! # Where an allocation goes
//!
//! To the lowest addresses that fit, but from the upper half of what the device can reach, and never
//! higher than from 4 GiB, unless the request itself begins above that: a device with a 28-bit mask starts
//! at 128 MiB, one with a 32-bit mask at 2 GiB, one with any wider mask at 4 GiB. Only when there is no room
//! there is the rest used, from its bottom. So each device leaves the lower half to those with narrower
//! masks, and allocations pack densely from a few fixed places, which keeps page tables short and few. (From
//! the top of the mask down would spare the low addresses too, but it would begin each table at its end, and
//! would take a table that can grow to its full height at once.)
//!
//! A freed range is given to the next request of its size that it suits. It may be, at once: the engine
//! frees addresses only when every unit has confirmed the invalidation (rule R2).
//!
//! # Guards
//!
//! The page after an allocation is its guard. It is never mapped and never given out while the allocation
//! lives, so that a device that runs past the end of its buffer faults instead of reaching the next one.
//! The guard counts as taken but not as allocated, and goes when the allocation goes. Three places need saying:
//!
//! - At the end of the space nothing follows that could be mapped, so that the last page can be allocated
//!   without a guard. The guard may lie above a request's own limit, since the device only must not reach it.
//! - Before a reserved range the guard is kept: what is reserved may well be mapped (an RMRR), or worse (the
//!   interrupt range).
//! - A reserved range has no guard of its own, and an allocation may follow it directly. Who distrusts what is
//!   reserved reserves a page more.
//!
//! # Cost
//!
//! With a range of the right size at hand, `alloc` and `free` take the same number of steps whatever is
//! live: `alloc` searches nothing, and `free` looks its range up in a tree of fixed height. Otherwise, and
//! for everything else, steps grow with the logarithm of the number of free ranges, and are bounded by the
//! width of an address. Limits and fragmentation do not change that.

use alloc::collections::BTreeMap;

use dma_types::{Iova, PAGE_SIZE};

use super::error::IovaError;
use super::free::FreeRanges;
use super::freeing::{Loose, release};
use super::held::{Extent, Held, HeldRanges, Place};
use super::magazine::Magazines;
use super::request::{Guard, IovaRange, IovaRequest, WIDEST_SPACE_BITS};
use super::wanted::{Wanted, whole_pages};
use crate::table::format::PAGE_SHIFT;

/// The addresses of one I/O address space: reserved, allocated and free. See the [module](self).
///
/// Of each allocation its holder can [note](Self::note) an `N`.
#[derive(Debug)]
pub struct IovaAllocator<N = ()> {
    /// The pages of the space. One more exists here, which only a guard can take.
    pages: u64,
    pub(super) free: FreeRanges,
    pub(super) held: HeldRanges<N>,
    pub(super) idle: Magazines,
    /// Reserved ranges by first page, with the page after their last. No two overlap.
    reserved: BTreeMap<u64, u64>,
    /// What was freed last piece by piece, and is not among the free ranges yet: what is freed next may lie behind it.
    pub(super) loose: Loose,
    /// How far the request before reached: most often the next one does, too.
    pub(super) reach: Reach,
    /// Whether pads are set aside.
    pub(super) has_pads: bool,
}

/// The addresses that requests with these bounds may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) align: u64,
    pub(super) first: Iova,
    pub(super) limit: Iova,
    /// From where on they look.
    pub(super) floor: u64,
    /// The first address that they may not use.
    pub(super) end: u64,
}

/// The range of these pages. All that is ever in the space fits in 64 bits.
pub(super) const fn range_of(start: u64, pages: u64) -> IovaRange {
    IovaRange::new(Iova::new(start << PAGE_SHIFT), pages << PAGE_SHIFT)
}

impl IovaAllocator {
    /// A space of which everything is free, from zero to the last whole page at or below `limit`.
    ///
    /// `limit` is the highest address that the domain's tables translate; more than 57 bits (VT-d's and
    /// AMD-Vi's widest, of five levels) count as 57. Reserve [`PAGE_ZERO`](super::PAGE_ZERO) and
    /// [`INTERRUPT_RANGE`](super::INTERRUPT_RANGE) first, then what firmware wants.
    pub fn new(limit: Iova) -> Self {
        Self::with_notes(limit)
    }
}

impl<N: Copy + Default> IovaAllocator<N> {
    /// The same, in which something can be noted of each allocation.
    pub fn with_notes(limit: Iova) -> Self {
        let widest = 1 << WIDEST_SPACE_BITS;
        let pages = limit.get().saturating_add(1).min(widest) >> PAGE_SHIFT;
        let mut free = FreeRanges::new();
        if pages > 0 {
            free.give(0, pages + 1);
        }
        Self {
            pages,
            free,
            held: HeldRanges::new(),
            idle: Magazines::new(),
            reserved: BTreeMap::new(),
            loose: Loose::default(),
            // That of no request: nothing is a multiple of zero.
            reach: Reach { align: 0, first: Iova::new(0), limit, floor: 0, end: 0 },
            has_pads: true,
        }
    }

    /// Keeps every page that `range` touches from being given out, for good.
    ///
    /// What overlaps earlier reservations becomes one with them; what lies outside the space is none of
    /// its business, so that the interrupt range can be reserved in a space that ends below it.
    ///
    /// # Errors
    ///
    /// [`ZeroSize`](IovaError::ZeroSize); [`OutsideSpace`](IovaError::OutsideSpace) if the range runs past
    /// 64 bits; [`Allocated`](IovaError::Allocated) if it overlaps an allocation or a guard.
    pub fn reserve(&mut self, range: IovaRange) -> Result<(), IovaError> {
        if range.bytes == 0 {
            return Err(IovaError::ZeroSize);
        }
        let last = range.last().ok_or_else(|| self.outside(range))?;
        let mut start = range.start.get() >> PAGE_SHIFT;
        let mut end = ((last.get() >> PAGE_SHIFT) + 1).min(self.pages);
        if start >= end {
            return Ok(());
        }
        self.settle();
        self.check_not_held(start, end)?;
        while let Some((known_start, known_end)) = self.reservation_in(start, end) {
            self.reserved.remove(&known_start);
            start = start.min(known_start);
            end = end.max(known_end);
        }
        self.reserved.insert(start, end);
        // The part that is new may be several free ranges, between what was reserved already.
        while let Some(free) = self.free.ending_from(start + 1).filter(|free| free.start < end) {
            self.free.take(free.start.max(start), free.end.min(end));
        }
        Ok(())
    }

    /// Gives out the lowest free addresses that suit (see the [module](self) for which those are), and keeps
    /// the page after them as a guard.
    ///
    /// # Errors
    ///
    /// A malformed request: [`ZeroSize`](IovaError::ZeroSize), [`NotPages`](IovaError::NotPages),
    /// [`BadAlignment`](IovaError::BadAlignment). No room: [`NoRoomUnderLimit`](IovaError::NoRoomUnderLimit)
    /// if a device with a wider mask would have got some, otherwise [`NoRoom`](IovaError::NoRoom). A nearly
    /// full space may be said to have no room for an alignment other than 4 KiB, 2 MiB or 1 GiB when it
    /// has some, if more than thirty free ranges before it are long enough but badly aligned.
    #[inline]
    pub fn alloc(&mut self, request: IovaRequest) -> Result<Iova, IovaError> {
        match self.idle_at_hand(&request) {
            Some(idle) => Ok(idle.take()),
            None => self.search(request),
        }
    }

    /// Makes an idle range live, which is in no magazine any more.
    #[inline]
    fn make_live(&mut self, place: Place) -> Iova {
        let held = self.held.at(place);
        held.extent = held.extent.live();
        Iova::new(place.start << PAGE_SHIFT)
    }

    /// Gives out addresses that may be anywhere.
    #[inline(never)]
    fn search(&mut self, request: IovaRequest) -> Result<Iova, IovaError> {
        let wanted = Wanted::of(request, self.pages)?;
        self.settle();
        let start = self.place(wanted).or_else(|| {
            self.merge_idle();
            self.take_back_pads();
            self.place(wanted)
        });
        let start = start.ok_or_else(|| self.no_room(wanted, request))?;
        let IovaRequest { align, first, limit, .. } = request;
        let (floor, end) = (wanted.floor() << PAGE_SHIFT, wanted.end << PAGE_SHIFT);
        self.reach = Reach { align, first, limit, floor, end };
        Ok(Iova::new(start << PAGE_SHIFT))
    }

    /// Gives out exactly the `bytes` at `iova`, with a guard page after them or without.
    ///
    /// For windows at addresses that a client chose, for identity maps, and to take over what an earlier
    /// daemon gave out.
    ///
    /// # Errors
    ///
    /// [`ZeroSize`](IovaError::ZeroSize), [`NotPages`](IovaError::NotPages),
    /// [`NotPageStart`](IovaError::NotPageStart), [`OutsideSpace`](IovaError::OutsideSpace); when the range or
    /// its guard is not free, [`Allocated`](IovaError::Allocated) or [`Reserved`](IovaError::Reserved).
    pub fn alloc_at(&mut self, iova: Iova, bytes: u64, guard: Guard) -> Result<(), IovaError> {
        let (start, pages) = self.check_at(iova, bytes)?;
        let extent = Extent::new(pages, guard == Guard::Page);
        let end = start + extent.span();
        if let Some((start, end)) = self.reservation_in(start, end) {
            return Err(IovaError::Reserved { reserved: range_of(start, end - start) });
        }
        self.settle();
        if !self.free.contains(start, end) {
            self.check_not_held(start, end)?;
        }
        self.hold(start, extent);
        Ok(())
    }

    /// Makes allocations of these lengths, one directly behind the other, of the one at `iova`, which is as long as all of them:
    /// each can be freed alone. The last has the guard, if there is one.
    pub(crate) fn split(&mut self, iova: Iova, lengths: impl IntoIterator<Item = u64>) {
        let mut start = iova.get() >> PAGE_SHIFT;
        self.trim(start);
        let Some(whole) = self.held.remove(start) else { return };
        let end = start + whole.pages();
        for bytes in lengths {
            let pages = bytes >> PAGE_SHIFT;
            let extent = Extent::new(pages, whole.has_guard() && start + pages == end);
            self.held.insert(start, Held { extent, note: N::default() });
            start += pages;
        }
        debug_assert_eq!(start, end);
    }

    /// Whether [`alloc_at`](Self::alloc_at) without a guard would succeed for this range.
    pub fn is_free(&self, range: IovaRange) -> bool {
        let Ok((start, pages)) = self.check_at(range.start, range.bytes) else { return false };
        let mut end = start + pages;
        if self.reservation_in(start, end).is_some() {
            return false;
        }
        while let Some((held_start, extent)) = self.held_in(start, end) {
            if !extent.is_idle() {
                return false;
            }
            end = held_start;
        }
        true
    }

    /// The last address of the space; zero for a space of less than a page.
    pub fn last(&self) -> Iova {
        Iova::new((self.pages << PAGE_SHIFT).saturating_sub(1))
    }

    /// How many allocations are live.
    pub fn allocations(&self) -> u64 {
        self.held.ranges() - self.idle.held().0
    }

    /// How many bytes those are, without their guards.
    pub fn allocated_bytes(&self) -> u64 {
        (self.held.pages() - self.idle.held().1) << PAGE_SHIFT
    }

    /// How many bytes their guards are, one beyond the end of the space included.
    pub fn guard_bytes(&self) -> u64 {
        // What is idle has one each.
        (self.held.guards() - self.idle.held().0) << PAGE_SHIFT
    }

    /// All live allocations, without their guards, by address.
    pub fn allocated(&self) -> impl Iterator<Item = IovaRange> {
        let live = self.held.iter_from(0).filter(|(_, held)| !held.extent.is_idle());
        live.map(|(start, held)| range_of(start, held.extent.pages()))
    }

    /// All reserved ranges within the space, by address.
    pub fn reserved(&self) -> impl Iterator<Item = IovaRange> {
        self.reserved.iter().map(|(&start, &end)| range_of(start, end - start))
    }

    /// The chosen range as its first page and its number of pages, if it can be in the space.
    fn check_at(&self, iova: Iova, bytes: u64) -> Result<(u64, u64), IovaError> {
        let pages = whole_pages(bytes)?;
        if !iova.is_aligned(PAGE_SIZE) {
            return Err(IovaError::NotPageStart { iova });
        }
        let start = iova.get() >> PAGE_SHIFT;
        if start + pages > self.pages {
            return Err(self.outside(IovaRange::new(iova, bytes)));
        }
        Ok((start, pages))
    }

    fn outside(&self, range: IovaRange) -> IovaError {
        IovaError::OutsideSpace { range, last: self.last() }
    }

    /// Finds pages and makes them held: those freed last if they suit, otherwise the lowest.
    fn place(&mut self, wanted: Wanted) -> Option<u64> {
        self.place_from(wanted.floor(), wanted).or_else(|| self.place_from(wanted.first, wanted))
    }

    fn place_from(&mut self, floor: u64, wanted: Wanted) -> Option<u64> {
        let magazine = self.idle.of_bytes(wanted.pages << PAGE_SHIFT);
        let suits = |start| start >= floor && wanted.suits(start);
        if let Some(place) = magazine.and_then(|magazine| magazine.take(suits)) {
            self.make_live(place);
            return Some(place.start);
        }
        let extent = Extent::new(wanted.pages, true);
        let (start, within) = self.free.find(floor, extent.span(), wanted.order)?;
        if start + wanted.pages > wanted.end {
            return None;
        }
        let pad = self.pad_behind(start + extent.span(), within, wanted);
        let extent = extent.with_pad(pad);
        self.free.take_of(within, start, start + extent.span());
        self.held.insert(start, Held { extent, note: N::default() });
        Some(start)
    }

    /// Makes free pages from `start` on a held range.
    fn hold(&mut self, start: u64, extent: Extent) {
        self.free.take(start, start + extent.span());
        self.held.insert(start, Held { extent, note: N::default() });
    }

    /// Why there is no room. Nothing is idle any more, so that the tree of free ranges tells.
    fn no_room(&self, wanted: Wanted, request: IovaRequest) -> IovaError {
        let IovaRequest { bytes, align, limit, .. } = request;
        let longest = self.longest_free_before(wanted.end);
        let higher = self.free.find(wanted.first, wanted.pages + 1, wanted.order);
        if higher.is_some_and(|(start, _)| start + wanted.pages <= self.pages) {
            IovaError::NoRoomUnderLimit { bytes, align, limit, longest }
        } else {
            IovaError::NoRoom { bytes, align, longest }
        }
    }

    fn longest_free_before(&self, end: u64) -> u64 {
        self.free.longest_before(end) << PAGE_SHIFT
    }

    /// The last reserved range that overlaps `start` to `end`.
    fn reservation_in(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let (&known_start, &known_end) = self.reserved.range(..end).next_back()?;
        (known_end > start).then_some((known_start, known_end))
    }

    /// The last held range, live or idle, that overlaps `start` to `end` with its guard.
    fn held_in(&self, start: u64, end: u64) -> Option<(u64, Extent)> {
        let (found, held) = self.held.at_or_before(end.checked_sub(1)?)?;
        (found + held.extent.firm() > start).then_some((found, held.extent))
    }

    /// Sees that no allocation or guard is in `start` to `end`, and that nothing there is idle or set aside.
    fn check_not_held(&mut self, start: u64, end: u64) -> Result<(), IovaError> {
        while let Some((held_start, extent)) = self.held_in(start, end) {
            if !extent.is_idle() {
                return Err(IovaError::Allocated {
                    allocation: range_of(held_start, extent.pages()),
                });
            }
            if let Some(magazine) = self.idle.of_bytes(extent.bytes()) {
                magazine.take(|start| start == held_start);
            }
            release(&mut self.held, &mut self.free, held_start);
        }
        if let Some((before, _)) = end.checked_sub(1).and_then(|last| self.held.at_or_before(last))
        {
            self.trim(before);
        }
        Ok(())
    }

    /// The free ranges in pages, everything idle included, as the tests compare them.
    #[cfg(test)]
    pub(super) fn free_pages(&mut self) -> alloc::vec::Vec<core::ops::Range<u64>> {
        self.settle();
        self.merge_idle();
        self.trim_all();
        self.free.iter().map(|free| free.start..free.end).collect()
    }
}
