//! Ranges lately freed, kept at hand for the next request of their size.
//!
//! A driver that maps and unmaps asks for the same few sizes again and again. Giving it the range that it
//! freed last costs no search and no merging, however many other ranges are live, and the tables and
//! IOTLB sets of that range are warm. What is kept here is bounded, and goes back to the free ranges
//! when there is no other room.

use alloc::vec::Vec;

use dma_types::PAGE_SIZE;

use super::held::Place;

/// Sizes up to this many pages have a magazine each.
const SMALL_PAGES: u64 = 32;
/// The larger sizes that have one: 64, 128, 256 and 512 pages, the last of which is 2 MiB.
const LARGE_MAGAZINES: usize = 4;
const MAGAZINES: usize = SMALL_PAGES as usize + LARGE_MAGAZINES;
/// How many ranges one magazine holds: as many as a ring or a queue gives back at one go.
const ROUNDS: usize = 256;
/// For how many it has memory when the first is put in.
const FIRST_ROUNDS: usize = 32;

/// Idle ranges, by size.
#[derive(Debug)]
pub(super) struct Magazines {
    by_size: [Magazine; MAGAZINES],
}

impl Magazines {
    /// Empty magazines.
    pub(super) const fn new() -> Self {
        Self { by_size: [const { Magazine::EMPTY }; MAGAZINES] }
    }

    /// The magazine for ranges of so many bytes, if there is one.
    #[inline]
    pub(super) fn of_bytes(&mut self, bytes: u64) -> Option<&mut Magazine> {
        // Bytes that are no whole pages make an enormous number of these.
        let pages = bytes.rotate_right(PAGE_SIZE.trailing_zeros());
        if (1..=SMALL_PAGES).contains(&pages) {
            return self.by_size.get_mut(pages as usize - 1);
        }
        if !pages.is_power_of_two() {
            return None;
        }
        let class = pages.trailing_zeros().checked_sub(SMALL_PAGES.trailing_zeros())? as usize;
        self.by_size.get_mut(SMALL_PAGES as usize - 1 + class)
    }

    /// How many ranges there are, and how many pages these are.
    pub(super) fn held(&self) -> (u64, u64) {
        let sizes = (1..=SMALL_PAGES).chain((1..).map(|order| SMALL_PAGES << order));
        let counts = self.by_size.iter().map(|magazine| magazine.count as u64);
        counts
            .zip(sizes)
            .fold((0, 0), |(ranges, pages), (count, size)| (ranges + count, pages + count * size))
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Place> {
        self.by_size.iter_mut().flat_map(Magazine::drain)
    }
}

/// Idle ranges of one size. It has no memory before it is used.
#[derive(Debug)]
pub(super) struct Magazine {
    /// Room for [`ROUNDS`] at the most, and for twice as many as before when that is used up.
    rounds: Vec<Place>,
    /// How many of them there are, as they came.
    count: usize,
}

impl Magazine {
    const EMPTY: Self = Self { rounds: Vec::new(), count: 0 };

    /// The range that came last.
    #[inline]
    pub(super) fn last(&self) -> Option<Place> {
        // There is none at the largest number.
        self.rounds.get(self.count.wrapping_sub(1)).copied()
    }

    /// Takes the range out that came last, where there is one.
    #[inline]
    pub(super) fn drop_last(&mut self) {
        self.count -= 1;
    }

    /// Whether one more can be put in.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.count < self.rounds.len()
    }

    /// Whether there are as many as it holds: more make others free.
    pub(super) fn is_full(&self) -> bool {
        self.count == ROUNDS
    }

    /// Takes the range that came last of those whose first pages `suits` accepts.
    pub(super) fn take(&mut self, suits: impl Fn(u64) -> bool) -> Option<Place> {
        let places = self.rounds.get_mut(..self.count)?;
        let found = places.iter().rposition(|place| suits(place.start))?;
        let place = places[found];
        places[found..].rotate_left(1);
        self.count -= 1;
        Some(place)
    }

    /// Puts a range in. `false` if there is no [room](Self::make_room).
    #[inline]
    pub(super) fn put(&mut self, place: Place) -> bool {
        let Some(round) = self.rounds.get_mut(self.count) else { return false };
        *round = place;
        self.count += 1;
        true
    }

    /// Makes room where there is none: what comes out, by address, is for the caller to merge with the free ranges. Of a full
    /// magazine that is the higher half, so that what stays in use is packed low, and the lowest is the next to be taken.
    pub(super) fn make_room(&mut self) -> &[Place] {
        let room = self.rounds.len();
        if room < ROUNDS {
            self.rounds.resize((2 * room).clamp(FIRST_ROUNDS, ROUNDS), Place::NOWHERE);
            return &[];
        }
        self.rounds.sort_unstable_by_key(|place| place.start);
        let (kept, spilt) = self.rounds.split_at_mut(ROUNDS / 2);
        kept.reverse();
        self.count = kept.len();
        spilt
    }

    /// Takes everything out.
    fn drain(&mut self) -> impl Iterator<Item = Place> {
        self.rounds.drain(..).take(core::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(start: u64) -> Place {
        Place { start, slot: start as u32 }
    }

    fn take_last(magazine: &mut Magazine) -> Option<Place> {
        magazine.last().inspect(|_| magazine.drop_last())
    }

    /// Puts a range in, and gives what that pushes out.
    fn put(magazine: &mut Magazine, start: u64) -> Vec<Place> {
        if magazine.put(place(start)) {
            return Vec::new();
        }
        let spilt = magazine.make_room().to_vec();
        assert!(magazine.put(place(start)));
        spilt
    }

    #[test]
    fn the_range_freed_last_is_taken_first() {
        let mut magazine = Magazine::EMPTY;
        for start in [10, 20, 30] {
            assert_eq!(put(&mut magazine, start), []);
        }
        assert_eq!(magazine.take(|start| start < 20), Some(place(10)));
        assert_eq!(magazine.take(|_| true), Some(place(30)));
        assert_eq!(take_last(&mut magazine), Some(place(20)));
        assert_eq!((take_last(&mut magazine), magazine.take(|_| true)), (None, None));
    }

    #[test]
    fn a_full_magazine_gives_its_higher_half_back_and_the_lowest_out_next() {
        let mut magazines = Magazines::new();
        let large = magazines.of_bytes(512 * PAGE_SIZE).unwrap();
        const MOST: u64 = ROUNDS as u64;
        for start in (0..MOST).rev() {
            assert_eq!(put(large, start), []);
        }
        assert!(put(large, MOST).into_iter().eq((MOST / 2..MOST).map(place)));
        assert_eq!(take_last(large), Some(place(MOST)));
        assert_eq!(take_last(large), Some(place(0)));
        assert!(put(large, 0).is_empty() && put(large, MOST).is_empty());
        assert_eq!(put(magazines.of_bytes(32 * PAGE_SIZE).unwrap(), 33), []);
        assert_eq!(put(magazines.of_bytes(64 * PAGE_SIZE).unwrap(), 34), []);
        let large = MOST / 2 + 1;
        assert_eq!(magazines.held(), (large + 2, large * 512 + 32 + 64));
        assert_eq!(magazines.drain().count() as u64, large + 2);
    }

    #[test]
    fn only_sizes_that_drivers_repeat_have_a_magazine() {
        let mut magazines = Magazines::new();
        for pages in [1, 17, 32, 64, 128, 256, 512] {
            assert!(magazines.of_bytes(pages * PAGE_SIZE).is_some(), "{pages}");
        }
        for pages in [0, 33, 63, 96, 513, 1024, 1 << 45] {
            assert!(magazines.of_bytes(pages * PAGE_SIZE).is_none(), "{pages}");
        }
        for bytes in [1, PAGE_SIZE - 1, PAGE_SIZE + 1, 1 << 63, u64::MAX] {
            assert!(magazines.of_bytes(bytes).is_none(), "{bytes:#x}");
        }
    }
}
