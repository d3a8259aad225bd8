//! Which pages of a range are taken.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// From which end of the range pages are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The lowest that fit.
    Bottom,
    /// The highest that fit.
    Top,
}

/// Pages by their number in some range, each free or taken.
#[derive(Debug)]
pub struct Pages {
    taken: Vec<bool>,
}

impl Pages {
    /// `count` free pages.
    pub fn new(count: usize) -> Self {
        Self { taken: vec![false; count] }
    }

    /// Takes `count` pages that follow one another, the first a multiple of `alignment`, and gives the
    /// first's number; `None` when there are none.
    pub fn take(&mut self, count: usize, alignment: usize, from: From) -> Option<usize> {
        let last = self.taken.len().checked_sub(count)?;
        let fits = |first: &usize| self.taken[*first..first + count].iter().all(|taken| !taken);
        let mut places = (0..last / alignment + 1).map(|place| place * alignment);
        let first = match from {
            From::Bottom => places.find(fits),
            From::Top => places.rfind(fits),
        }?;
        self.taken[first..first + count].fill(true);
        Some(first)
    }

    /// Gives pages back.
    ///
    /// # Panics
    ///
    /// If one of them is not taken: whoever gives it back has lost count, and the case that did must not
    /// go on.
    pub fn give_back(&mut self, pages: Range<usize>) {
        for page in pages {
            assert!(core::mem::take(&mut self.taken[page]), "page {page} is given back twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_taken_from_either_end_and_never_twice() {
        let mut pages = Pages::new(8);
        assert_eq!(pages.take(3, 1, From::Top), Some(5));
        assert_eq!(pages.take(3, 1, From::Bottom), Some(0));
        assert_eq!(pages.take(3, 1, From::Bottom), None);
        assert_eq!(pages.take(2, 1, From::Top), Some(3));
        assert_eq!(pages.take(1, 1, From::Top), None);
        pages.give_back(5..8);
        assert_eq!(pages.take(3, 1, From::Bottom), Some(5));
    }

    #[test]
    fn alignment_is_kept_from_both_ends() {
        let mut pages = Pages::new(11);
        assert_eq!(pages.take(2, 4, From::Top), Some(8));
        assert_eq!(pages.take(1, 4, From::Bottom), Some(0));
        assert_eq!(pages.take(4, 4, From::Bottom), Some(4));
        assert_eq!(pages.take(4, 4, From::Bottom), None);
        assert_eq!(pages.take(12, 1, From::Bottom), None);
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn a_page_given_back_twice_is_noticed() {
        let mut pages = Pages::new(2);
        let first = pages.take(1, 1, From::Bottom).unwrap();
        pages.give_back(first..first + 1);
        pages.give_back(first..first + 1);
    }
}
