//! Which number belongs to which page, found by address in a fixed number of steps.
//!
//! A tree over a page's number that is as high for every page: a leaf tells 64 pages apart, four levels above it 256 of those
//! beneath each, and a root the rest. The millionth number costs what the first did, and no choice of addresses makes the tree
//! unbalanced. A client that scatters ranges as widely as it can costs fewer bytes here than in the page tables that map them.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::table::format::{LARGE_PAGE, PAGE_SHIFT};

/// A part of the tree. Of a page it looks at the low [`BITS`](Self::BITS) bits alone, and gives pages in those.
trait Part {
    const BITS: u32;
    const EMPTY: Self;

    fn get(&self, page: u64) -> Option<u32>;
    fn insert(&mut self, page: u64, number: u32);
    fn remove(&mut self, page: u64) -> Option<u32>;
    fn is_empty(&self) -> bool;
    fn at_or_before(&self, page: u64) -> Option<(u64, u32)>;
    fn at_or_after(&self, page: u64) -> Option<(u64, u32)>;
}

/// The numbers of 64 pages.
#[derive(Debug)]
struct Leaf {
    /// Bit n: page n has a number.
    present: u64,
    numbers: [u32; u64::BITS as usize],
}

impl Leaf {
    #[inline]
    const fn place(page: u64) -> u32 {
        page as u32 % u64::BITS
    }

    fn found(&self, place: u32) -> (u64, u32) {
        (place.into(), self.numbers[place as usize])
    }
}

impl Part for Leaf {
    const BITS: u32 = u64::BITS.trailing_zeros();
    const EMPTY: Self = Self { present: 0, numbers: [0; u64::BITS as usize] };

    #[inline]
    fn get(&self, page: u64) -> Option<u32> {
        let place = Self::place(page);
        (self.present >> place & 1 == 1).then(|| self.numbers[place as usize])
    }

    #[inline]
    fn insert(&mut self, page: u64, number: u32) {
        let place = Self::place(page);
        self.present |= 1 << place;
        self.numbers[place as usize] = number;
    }

    #[inline]
    fn remove(&mut self, page: u64) -> Option<u32> {
        let number = self.get(page)?;
        self.present &= !(1 << Self::place(page));
        Some(number)
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.present == 0
    }

    fn at_or_before(&self, page: u64) -> Option<(u64, u32)> {
        let lower = self.present & (u64::MAX >> (u64::BITS - 1 - Self::place(page)));
        lower.checked_ilog2().map(|place| self.found(place))
    }

    fn at_or_after(&self, page: u64) -> Option<(u64, u32)> {
        let higher = self.present & (u64::MAX << Self::place(page));
        (higher != 0).then(|| self.found(higher.trailing_zeros()))
    }
}

/// How many parts a node has beneath it.
const FANOUT: usize = 1 << u8::BITS;

/// Parts side by side, those that are empty left out.
#[derive(Debug)]
struct Node<P> {
    present: u32,
    parts: [Option<Box<P>>; FANOUT],
}

/// Which of a node's parts a page is in.
#[inline]
const fn digit<P: Part>(page: u64) -> usize {
    (page >> P::BITS) as u8 as usize
}

/// What was found in one of the parts that lie side by side.
const fn in_part<P: Part>(digit: usize, (page, number): (u64, u32)) -> (u64, u32) {
    ((digit as u64) << P::BITS | page, number)
}

/// The last at `page` or before in parts that lie side by side, of which it is in the one with this digit.
fn last_of<P: Part>(parts: &[Option<Box<P>>], digit: usize, page: u64) -> Option<(u64, u32)> {
    let own = parts.get(digit).and_then(Option::as_ref).and_then(|part| part.at_or_before(page));
    own.map(|found| in_part::<P>(digit, found)).or_else(|| {
        let (digit, part) = with_digits(parts.iter().take(digit)).next_back()?;
        part.at_or_before(u64::MAX).map(|found| in_part::<P>(digit, found))
    })
}

/// The first at `page` or after, likewise.
fn first_of<P: Part>(parts: &[Option<Box<P>>], digit: usize, page: u64) -> Option<(u64, u32)> {
    let own = parts.get(digit).and_then(Option::as_ref).and_then(|part| part.at_or_after(page));
    own.map(|found| in_part::<P>(digit, found)).or_else(|| {
        let (digit, part) = with_digits(parts.iter()).find(|(other, _)| *other > digit)?;
        part.at_or_after(0).map(|found| in_part::<P>(digit, found))
    })
}

/// The parts that there are, none of which is empty.
fn with_digits<'a, P: Part + 'a>(
    parts: impl ExactSizeIterator<Item = &'a Option<Box<P>>> + DoubleEndedIterator,
) -> impl DoubleEndedIterator<Item = (usize, &'a P)> {
    parts.enumerate().filter_map(|(digit, part)| Some((digit, &**part.as_ref()?)))
}

impl<P: Part> Part for Node<P> {
    const BITS: u32 = P::BITS + u8::BITS;
    const EMPTY: Self = Self { present: 0, parts: [const { None }; FANOUT] };

    #[inline]
    fn get(&self, page: u64) -> Option<u32> {
        self.parts[digit::<P>(page)].as_ref()?.get(page)
    }

    fn insert(&mut self, page: u64, number: u32) {
        let part = &mut self.parts[digit::<P>(page)];
        self.present += u32::from(part.is_none());
        part.get_or_insert_with(|| Box::new(P::EMPTY)).insert(page, number);
    }

    fn remove(&mut self, page: u64) -> Option<u32> {
        let slot = &mut self.parts[digit::<P>(page)];
        let part = slot.as_mut()?;
        let number = part.remove(page)?;
        if part.is_empty() {
            *slot = None;
            self.present -= 1;
        }
        Some(number)
    }

    fn is_empty(&self) -> bool {
        self.present == 0
    }

    fn at_or_before(&self, page: u64) -> Option<(u64, u32)> {
        last_of(&self.parts, digit::<P>(page), page)
    }

    fn at_or_after(&self, page: u64) -> Option<(u64, u32)> {
        first_of(&self.parts, digit::<P>(page), page)
    }
}

/// What is beneath the root: 50 bits of addresses each.
type Top = Node<Node<Node<Node<Leaf>>>>;

/// Numbers by page. The root has as many parts as the highest page needs: most often one, for 57 bits of addresses 128.
#[derive(Debug, Default)]
struct Tree {
    root: Vec<Option<Box<Top>>>,
}

impl Tree {
    /// Nothing.
    const fn new() -> Self {
        Self { root: Vec::new() }
    }

    /// Which of the root's parts a page is in.
    #[inline]
    const fn digit(page: u64) -> usize {
        (page >> Top::BITS) as usize
    }

    #[inline]
    fn get(&self, page: u64) -> Option<u32> {
        self.root.get(Self::digit(page))?.as_ref()?.get(page)
    }

    fn insert(&mut self, page: u64, number: u32) {
        debug_assert!(self.get(page).is_none());
        let digit = Self::digit(page);
        if self.root.len() <= digit {
            self.root.resize_with(digit + 1, || None);
        }
        self.root[digit].get_or_insert_with(|| Box::new(Top::EMPTY)).insert(page, number);
    }

    fn remove(&mut self, page: u64) -> Option<u32> {
        let slot = self.root.get_mut(Self::digit(page))?;
        let top = slot.as_mut()?;
        let number = top.remove(page)?;
        if top.is_empty() {
            *slot = None;
        }
        Some(number)
    }

    fn at_or_before(&self, page: u64) -> Option<(u64, u32)> {
        last_of(&self.root, Self::digit(page), page)
    }

    fn at_or_after(&self, page: u64) -> Option<(u64, u32)> {
        first_of(&self.root, Self::digit(page), page)
    }
}

/// A page at which a large page can start is a multiple of two to the power of this.
const LARGE_ORDER: u32 = LARGE_PAGE.trailing_zeros() - PAGE_SHIFT;

/// The number of the large page that starts at a page, if one does.
#[inline]
const fn large(page: u64) -> Option<u64> {
    if page.trailing_zeros() >= LARGE_ORDER { Some(page >> LARGE_ORDER) } else { None }
}

/// Numbers by page.
///
/// Pages at which large pages can start have a tree of their own, by the number of the large page: where they are the only
/// ones, as in a domain of large pages, a leaf is full of them, and not of one.
#[derive(Debug, Default)]
pub(crate) struct PageMap {
    small: Tree,
    large: Tree,
}

impl PageMap {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { small: Tree::new(), large: Tree::new() }
    }

    /// The number of a page.
    #[inline]
    pub(crate) fn get(&self, page: u64) -> Option<u32> {
        match large(page) {
            Some(large) => self.large.get(large),
            None => self.small.get(page),
        }
    }

    /// Gives a page a number, where it had none.
    pub(crate) fn insert(&mut self, page: u64, number: u32) {
        match large(page) {
            Some(large) => self.large.insert(large, number),
            None => self.small.insert(page, number),
        }
    }

    /// Takes the number of a page out.
    pub(crate) fn remove(&mut self, page: u64) -> Option<u32> {
        match large(page) {
            Some(large) => self.large.remove(large),
            None => self.small.remove(page),
        }
    }

    /// The last page at `page` or before that has a number, and which.
    pub(crate) fn at_or_before(&self, page: u64) -> Option<(u64, u32)> {
        let large = self.large.at_or_before(page >> LARGE_ORDER);
        self.small.at_or_before(page).max(large.map(as_page))
    }

    /// The first page at `page` or after that has a number, and which.
    fn at_or_after(&self, page: u64) -> Option<(u64, u32)> {
        let large = self.large.at_or_after(page.div_ceil(1 << LARGE_ORDER));
        let small = self.small.at_or_after(page);
        small.into_iter().chain(large.map(as_page)).min()
    }

    /// Everything from `page` on, by page.
    pub(crate) fn iter_from(&self, page: u64) -> impl Iterator<Item = (u64, u32)> {
        let mut from = page;
        core::iter::from_fn(move || {
            let (page, number) = self.at_or_after(from)?;
            from = page + 1;
            Some((page, number))
        })
    }
}

/// What was found of large pages, by page.
const fn as_page((large, number): (u64, u32)) -> (u64, u32) {
    (large << LARGE_ORDER, number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    /// Pages near each other, and pages of every magnitude.
    fn page() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..200u64,
            (0..20u64).prop_map(|large| large << LARGE_ORDER),
            (0..46u32, 0..3u64).prop_map(|(bit, near)| (1 << bit) + near),
        ]
    }

    /// How many parts of the tree there are.
    fn parts(map: &PageMap) -> usize {
        map.small.root.iter().chain(&map.large.root).flatten().count()
    }

    proptest! {
        #[test]
        fn it_behaves_as_an_ordered_map(steps in prop::collection::vec((page(), 0..3u8), 1..300)) {
            let (mut map, mut model) = (PageMap::new(), BTreeMap::new());
            for (number, (page, step)) in (0..).zip(steps) {
                match step {
                    0 => prop_assert_eq!(map.remove(page), model.remove(&page)),
                    _ if model.contains_key(&page) => {}
                    _ => {
                        map.insert(page, number);
                        model.insert(page, number);
                    }
                }
                for probe in [page, page + 1, page.saturating_sub(1), page * 2, u64::MAX >> 12] {
                    prop_assert_eq!(map.get(probe), model.get(&probe).copied());
                    let before = model.range(..=probe).next_back();
                    prop_assert_eq!(map.at_or_before(probe), before.map(|(&at, &it)| (at, it)));
                    let after = model.range(probe..).next();
                    prop_assert_eq!(map.at_or_after(probe), after.map(|(&at, &it)| (at, it)));
                }
            }
            prop_assert!(map.iter_from(0).eq(model.iter().map(|(&at, &number)| (at, number))));
            for page in model.into_keys() {
                map.remove(page);
            }
            prop_assert_eq!((map.iter_from(0).count(), parts(&map)), (0, 0), "what is empty is not kept");
        }
    }

    #[test]
    fn a_leaf_that_is_empty_is_gone_and_its_neighbours_stay() {
        let mut map = PageMap::new();
        let pages = [0x10_0001, 0x10_0040, 0x10_4001, 0x40_0000_0001];
        (0..).zip(pages).for_each(|(number, page)| map.insert(page, number));
        let lower = |map: &PageMap| {
            let upper = map.small.root[0].as_ref().unwrap().parts.iter().flatten();
            let middle = upper.flat_map(|upper| upper.parts.iter().flatten());
            let lower = middle.flat_map(|middle| middle.parts.iter().flatten());
            lower.map(|lower| lower.present).collect::<Vec<_>>()
        };
        assert_eq!(lower(&map), [2, 1]);
        assert_eq!((map.remove(0x10_0040), map.remove(0x10_0040)), (Some(1), None));
        assert_eq!(lower(&map), [1, 1]);
        assert_eq!((map.remove(0x10_4001), lower(&map).len()), (Some(2), 1));
        assert_eq!((map.remove(0x40_0000_0001), parts(&map)), (Some(3), 1));
        assert_eq!((map.remove(0x10_0001), parts(&map)), (Some(0), 0));
    }
}
