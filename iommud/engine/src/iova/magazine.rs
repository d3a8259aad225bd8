//! Ranges lately freed, kept at hand for the next request of their size.
//!
//! A driver that maps and unmaps asks for the same few sizes again and again. Giving it the range that it
//! freed last costs no search and no merging, however many other ranges are live, and the tables and
//! IOTLB sets of that range are warm. What is kept here is bounded, and goes back to the free ranges
//! when there is no other room.

use alloc::vec::Vec;

/// Sizes up to this many pages have a magazine each.
const SMALL_PAGES: u64 = 32;
/// The larger sizes that have one: 64, 128, 256 and 512 pages, the last of which is 2 MiB.
const LARGE_MAGAZINES: usize = 4;
const MAGAZINES: usize = SMALL_PAGES as usize + LARGE_MAGAZINES;
/// How many ranges one magazine holds.
const ROUNDS: usize = 32;
/// How many of them a full magazine gives back, the oldest first.
const SPILL: usize = ROUNDS / 2;

/// First pages of idle ranges, by size.
#[derive(Debug)]
pub(super) struct Magazines {
    by_size: [Vec<u64>; MAGAZINES],
}

impl Magazines {
    /// Empty magazines.
    pub(super) const fn new() -> Self {
        Self { by_size: [const { Vec::new() }; MAGAZINES] }
    }

    /// Which magazine holds ranges of `pages` pages, if any does.
    #[inline]
    pub(super) fn class(pages: u64) -> Option<usize> {
        if (1..=SMALL_PAGES).contains(&pages) {
            return Some(pages as usize - 1);
        }
        if !pages.is_power_of_two() {
            return None;
        }
        let class = pages.trailing_zeros().checked_sub(SMALL_PAGES.trailing_zeros())? as usize;
        (1..=LARGE_MAGAZINES).contains(&class).then_some(SMALL_PAGES as usize + class - 1)
    }

    /// Takes the range of `pages` pages that came last of those that `suits` accepts.
    #[inline]
    pub(super) fn take(&mut self, pages: u64, suits: impl Fn(u64) -> bool) -> Option<u64> {
        let magazine = self.by_size.get_mut(Self::class(pages)?)?;
        match magazine.last() {
            Some(&start) if suits(start) => magazine.pop(),
            _ => take_deeper(magazine, suits),
        }
    }

    /// Puts a range in. `false` if the magazine is full.
    #[inline]
    pub(super) fn put(&mut self, class: usize, start: u64) -> bool {
        let Some(magazine) = self.by_size.get_mut(class) else { return false };
        if magazine.capacity() == 0 {
            magazine.reserve_exact(ROUNDS);
        }
        let has_room = magazine.len() < ROUNDS;
        if has_room {
            magazine.push(start);
        }
        has_room
    }

    /// The oldest [`SPILL`] ranges of a magazine, which are not in it any more, for the caller to merge with the free ones.
    pub(super) fn spill(&mut self, class: usize) -> impl Iterator<Item = u64> {
        let magazine = self.by_size.get_mut(class).into_iter();
        magazine.flat_map(|magazine| magazine.drain(..SPILL.min(magazine.len())))
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = u64> {
        self.by_size.iter_mut().flat_map(|magazine| magazine.drain(..))
    }
}

/// Takes the last range that suits, where that is not the last.
#[inline(never)]
fn take_deeper(magazine: &mut Vec<u64>, suits: impl Fn(u64) -> bool) -> Option<u64> {
    let found = magazine.iter().rposition(|&start| suits(start))?;
    Some(magazine.remove(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(pages: u64) -> usize {
        Magazines::class(pages).unwrap()
    }

    #[test]
    fn the_range_freed_last_is_taken_first() {
        let mut magazines = Magazines::new();
        for start in [10, 20, 30] {
            assert!(magazines.put(class(4), start));
        }
        assert_eq!(magazines.take(5, |_| true), None);
        assert_eq!(magazines.take(4, |start| start < 20), Some(10));
        assert_eq!(magazines.take(4, |_| true), Some(30));
        assert_eq!(magazines.take(4, |_| true), Some(20));
    }

    #[test]
    fn a_full_magazine_gives_its_oldest_back() {
        let mut magazines = Magazines::new();
        for start in 0..32 {
            assert!(magazines.put(class(512), start));
        }
        assert!(!magazines.put(class(512), 32));
        assert!(magazines.spill(class(512)).eq(0..16));
        assert!(magazines.put(class(512), 32));
        assert_eq!(magazines.drain().count(), 17);
    }

    #[test]
    fn only_sizes_that_drivers_repeat_have_a_magazine() {
        for pages in [1, 17, 32, 64, 128, 256, 512] {
            assert!(Magazines::class(pages).is_some(), "{pages}");
        }
        for pages in [0, 33, 63, 96, 513, 1024, 1 << 45] {
            assert!(Magazines::class(pages).is_none(), "{pages}");
        }
    }
}
