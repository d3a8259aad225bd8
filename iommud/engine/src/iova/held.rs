//! What is known of an allocated range, found by its first page.

use dma_types::PAGE_SIZE;

use crate::page_map::PageMap;
use crate::slab::Slab;

/// What is known of a range itself, besides its first page: its bytes, the guard not counted, which are whole pages, and in
/// the bits below a page [`GUARD`](Self::GUARD), [`IDLE`](Self::IDLE), [`NOTED`](Self::NOTED) and [`PAD`](Self::PAD).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent(u64);

/// The most pages that are set aside behind a range.
const MOST_PAD: u64 = (1 << 9) - 1;

impl Extent {
    /// A guard page follows it.
    const GUARD: u64 = 1 << 0;
    /// It has been freed and waits in a magazine.
    const IDLE: u64 = 1 << 1;
    /// Something is noted of it.
    const NOTED: u64 = 1 << 2;
    /// How many pages behind the guard are free and set aside.
    const PAD: u64 = MOST_PAD << Self::PAD_SHIFT;
    const PAD_SHIFT: u32 = 3;

    /// A live range of so many pages.
    pub(super) const fn new(pages: u64, guard: bool) -> Self {
        Self(pages * PAGE_SIZE + guard as u64 * Self::GUARD)
    }

    /// An idle range of so many bytes, which are whole pages, with a guard.
    #[inline]
    pub(super) const fn idle_with_guard(bytes: u64) -> Self {
        Self(bytes | Self::GUARD | Self::IDLE)
    }

    /// A live range of so many bytes, which are whole pages, with a guard, of which something is noted.
    #[inline]
    pub(super) const fn noted_with_guard(bytes: u64) -> Self {
        Self(bytes | Self::GUARD | Self::NOTED)
    }

    #[inline]
    pub(super) const fn bytes(self) -> u64 {
        self.0 & !(PAGE_SIZE - 1)
    }

    #[inline]
    pub(super) const fn pages(self) -> u64 {
        self.0 / PAGE_SIZE
    }

    #[inline]
    pub(super) const fn has_guard(self) -> bool {
        self.0 & Self::GUARD != 0
    }

    #[inline]
    pub(super) const fn is_idle(self) -> bool {
        self.0 & Self::IDLE != 0
    }

    #[inline]
    pub(super) const fn is_noted(self) -> bool {
        self.0 & Self::NOTED != 0
    }

    /// Whether it is live, of just so many bytes, and has a guard.
    #[inline]
    pub(super) const fn is_live_with_guard(self, bytes: u64) -> bool {
        // By a sum, so that bytes that are no whole pages do not set the bit.
        self.0 & !(Self::NOTED | Self::PAD) == bytes.wrapping_add(Self::GUARD)
    }

    #[inline]
    pub(super) const fn idle(self) -> Self {
        Self(self.0 & !Self::NOTED | Self::IDLE)
    }

    #[inline]
    pub(super) const fn live(self) -> Self {
        Self(self.0 & !Self::IDLE)
    }

    /// What is idle, given out with something noted of it.
    #[inline]
    pub(super) const fn live_and_noted(self) -> Self {
        debug_assert!(self.0 & (Self::IDLE | Self::NOTED) == Self::IDLE);
        Self(self.0 ^ (Self::IDLE | Self::NOTED))
    }

    #[inline]
    pub(super) const fn noted(self) -> Self {
        Self(self.0 | Self::NOTED)
    }

    #[inline]
    pub(super) const fn without_note(self) -> Self {
        Self(self.0 & !Self::NOTED)
    }

    /// Its pages with the guard.
    pub(super) const fn firm(self) -> u64 {
        self.pages() + self.has_guard() as u64
    }

    /// The same with those that are set aside behind it.
    pub(super) const fn span(self) -> u64 {
        self.firm() + self.pad()
    }

    /// How many free pages are set aside behind it.
    pub(super) const fn pad(self) -> u64 {
        (self.0 & Self::PAD) >> Self::PAD_SHIFT
    }

    /// The same range with so many free pages set aside behind it, 511 at the most.
    pub(super) const fn with_pad(self, pages: u64) -> Self {
        Self(self.0 & !Self::PAD | (pages << Self::PAD_SHIFT) & Self::PAD)
    }
}

/// A range, and what its holder notes of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<N> {
    pub(super) extent: Extent,
    /// What is noted, if something is.
    pub(super) note: N,
}

/// Where the record of a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The range's first page.
    pub(super) start: u64,
    /// The number of its record.
    pub(super) slot: u32,
}

impl Place {
    /// Nowhere. Page numbers have fewer bits.
    pub(super) const NOWHERE: Self = Self { start: u64::MAX, slot: 0 };
}

/// The allocated ranges, by first page.
#[derive(Debug)]
pub(super) struct HeldRanges<N> {
    slots: PageMap,
    records: Slab<Held<N>>,
    /// The range that was looked at last: most often it is the next one, too.
    last: Place,
    ranges: u64,
    pages: u64,
    guards: u64,
}

impl<N: Copy> HeldRanges<N> {
    /// None.
    pub(super) const fn new() -> Self {
        Self {
            slots: PageMap::new(),
            records: Slab::new(),
            last: Place::NOWHERE,
            ranges: 0,
            pages: 0,
            guards: 0,
        }
    }

    #[inline]
    fn slot(&self, start: u64) -> Option<u32> {
        if self.last.start == start { Some(self.last.slot) } else { self.slots.get(start) }
    }

    /// The range that starts at page `start`.
    #[inline]
    pub(super) fn get(&self, start: u64) -> Option<&Held<N>> {
        Some(&self.records[self.slot(start)?])
    }

    /// The range that starts at page `start`, to be changed, and where it is.
    #[inline(always)]
    pub(super) fn find(&mut self, start: u64) -> Option<(Place, &mut Held<N>)> {
        if self.last.start != start && !self.look_up(start) {
            return None;
        }
        Some((self.last, &mut self.records[self.last.slot]))
    }

    /// Looks at the range that starts at page `start`, if one does.
    #[inline(never)]
    fn look_up(&mut self, start: u64) -> bool {
        let slot = self.slots.get(start);
        self.last = slot.map_or(self.last, |slot| Place { start, slot });
        slot.is_some()
    }

    /// The range in this place, of one that is held.
    #[inline(always)]
    pub(super) fn at(&mut self, place: Place) -> &mut Held<N> {
        debug_assert_eq!(self.slots.get(place.start), Some(place.slot));
        self.last = place;
        &mut self.records[place.slot]
    }

    /// Puts a range in that starts at page `start`, where none did; where it is.
    pub(super) fn insert(&mut self, start: u64, held: Held<N>) -> Place {
        let slot = self.records.insert(held);
        self.slots.insert(start, slot);
        self.last = Place { start, slot };
        self.ranges += 1;
        self.pages += held.extent.pages();
        self.guards += u64::from(held.extent.has_guard());
        self.last
    }

    /// Takes the range out that starts at page `start`.
    pub(super) fn remove(&mut self, start: u64) -> Option<Extent> {
        let slot = self.slots.remove(start)?;
        if self.last.start == start {
            self.last = Place::NOWHERE;
        }
        let extent = self.records.remove(slot).extent;
        self.ranges -= 1;
        self.pages -= extent.pages();
        self.guards -= u64::from(extent.has_guard());
        Some(extent)
    }

    /// How many ranges there are.
    pub(super) const fn ranges(&self) -> u64 {
        self.ranges
    }

    /// How many pages they have, without their guards.
    pub(super) const fn pages(&self) -> u64 {
        self.pages
    }

    /// How many guards they have.
    pub(super) const fn guards(&self) -> u64 {
        self.guards
    }

    /// The last range that starts at `page` or before, and where.
    pub(super) fn at_or_before(&self, page: u64) -> Option<(u64, &Held<N>)> {
        self.slots.at_or_before(page).map(|(start, slot)| (start, &self.records[slot]))
    }

    /// All ranges from `page` on, by first page.
    pub(super) fn iter_from(&self, page: u64) -> impl Iterator<Item = (u64, &Held<N>)> {
        self.slots.iter_from(page).map(|(start, slot)| (start, &self.records[slot]))
    }
}
