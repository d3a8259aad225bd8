//! What starts at which page, found by address in a fixed number of steps.
//!
//! A tree of 64-way nodes over a page's number, six bits a level. It is as high as its highest page needs, four levels up
//! to 64 GiB, and not as its number of entries: the millionth costs what the first did, and no choice of addresses makes it
//! unbalanced. A client that scatters ranges as widely as it can costs fewer bytes here than in the page tables that
//! map them.
//!
//! The leaves used last are remembered, for the next page is most likely in one of them. A leaf that has become empty stays
//! until another one does: what comes and goes at one place makes no leaf each time.

use crate::slab::Slab;

/// How many bits of a page number one level decodes: a node's occupancy is one word.
const LEVEL_BITS: u32 = 6;
const FANOUT: usize = 1 << LEVEL_BITS;

/// A node: of a leaf the children are values, of another node nodes.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Bit n: there is a child n.
    present: u64,
    children: [u32; FANOUT],
}

impl Node {
    const EMPTY: Self = Self { present: 0, children: [0; FANOUT] };

    #[inline]
    fn child(&self, digit: u32) -> Option<u32> {
        (self.present >> digit & 1 == 1).then(|| self.children[digit as usize])
    }

    #[inline]
    fn set(&mut self, digit: u32, child: u32) {
        self.present |= 1 << digit;
        self.children[digit as usize] = child;
    }

    /// Takes a child out; whether that leaves the node empty.
    #[inline]
    fn clear(&mut self, digit: u32) -> bool {
        self.present &= !(1 << digit);
        self.present == 0
    }
}

/// A leaf that was used lately, by the pages that it is of.
#[derive(Clone, Copy, Debug)]
struct Near {
    pages: u64,
    leaf: u32,
}

/// How many of those are remembered.
const NEAR: usize = 8;

/// No leaf. Page numbers have fewer bits.
const NOWHERE: Near = Near { pages: u64::MAX, leaf: 0 };

/// Values by page.
#[derive(Debug)]
pub(crate) struct PageMap<T> {
    /// The top node: a leaf if `levels` is 1.
    root: Option<u32>,
    levels: u32,
    nodes: Slab<Node>,
    values: Slab<T>,
    near: [Near; NEAR],
    /// A page of the leaf that is empty and has been kept, if it still is.
    kept: Option<u64>,
}

/// The six bits of `page` that choose the child of a node with `below` levels beneath it.
#[inline]
const fn digit(page: u64, below: u32) -> u32 {
    (page >> (below * LEVEL_BITS)) as u32 & (FANOUT as u32 - 1)
}

/// How many levels it takes to tell `page` from all lower pages.
const fn levels_for(page: u64) -> u32 {
    let bits = u64::BITS - page.leading_zeros();
    if bits == 0 { 1 } else { bits.div_ceil(LEVEL_BITS) }
}

/// Which of the leaves that are remembered this page's would be, and what would stand there.
#[inline]
const fn near_place(page: u64) -> (usize, u64) {
    let pages = page >> LEVEL_BITS;
    (pages as usize % NEAR, pages)
}

impl<T: Copy> PageMap<T> {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self {
            root: None,
            levels: 1,
            nodes: Slab::new(),
            values: Slab::new(),
            near: [NOWHERE; NEAR],
            kept: None,
        }
    }

    /// The leaf that a page is in.
    #[inline]
    fn leaf(&self, page: u64) -> Option<u32> {
        let (place, pages) = near_place(page);
        let near = self.near[place];
        if near.pages == pages { Some(near.leaf) } else { self.walk(page) }
    }

    /// The same, to be remembered.
    #[inline]
    fn leaf_again(&mut self, page: u64) -> Option<u32> {
        let (place, pages) = near_place(page);
        let near = self.near[place];
        if near.pages == pages {
            return Some(near.leaf);
        }
        let leaf = self.walk(page)?;
        self.near[place] = Near { pages, leaf };
        Some(leaf)
    }

    /// The leaf that a page is in, from the root on.
    #[inline(never)]
    fn walk(&self, page: u64) -> Option<u32> {
        let mut node = self.root?;
        if levels_for(page) > self.levels {
            return None;
        }
        for below in (1..self.levels).rev() {
            node = self.nodes[node].child(digit(page, below))?;
        }
        Some(node)
    }

    /// What starts at `page`.
    #[inline]
    pub(crate) fn get(&self, page: u64) -> Option<&T> {
        let value = self.nodes[self.leaf(page)?].child(digit(page, 0))?;
        Some(&self.values[value])
    }

    /// What starts at `page`, to be changed.
    #[inline]
    pub(crate) fn get_mut(&mut self, page: u64) -> Option<&mut T> {
        let leaf = self.leaf_again(page)?;
        let value = self.nodes[leaf].child(digit(page, 0))?;
        Some(&mut self.values[value])
    }

    /// Has a value start at `page`, where none did.
    #[inline]
    pub(crate) fn insert(&mut self, page: u64, value: T) {
        let leaf = match self.leaf_again(page) {
            Some(leaf) => leaf,
            None => self.make_leaf(page),
        };
        debug_assert!(self.nodes[leaf].child(digit(page, 0)).is_none());
        let value = self.values.insert(value);
        self.nodes[leaf].set(digit(page, 0), value);
    }

    /// Makes the leaf that a page is in, and what leads there.
    #[inline(never)]
    fn make_leaf(&mut self, page: u64) -> u32 {
        let levels = levels_for(page);
        let mut node = match self.root {
            None => {
                self.levels = levels;
                self.nodes.insert(Node::EMPTY)
            }
            Some(root) => self.grow(root, levels),
        };
        self.root = Some(node);
        for below in (1..self.levels).rev() {
            let digit = digit(page, below);
            node = match self.nodes[node].child(digit) {
                Some(child) => child,
                None => {
                    let child = self.nodes.insert(Node::EMPTY);
                    self.nodes[node].set(digit, child);
                    child
                }
            };
        }
        let (place, pages) = near_place(page);
        self.near[place] = Near { pages, leaf: node };
        node
    }

    /// Puts nodes above the root until the tree has at least `levels` levels, and gives the new root.
    fn grow(&mut self, root: u32, levels: u32) -> u32 {
        let mut root = root;
        while self.levels < levels {
            let mut above = Node::EMPTY;
            above.set(0, root);
            root = self.nodes.insert(above);
            self.levels += 1;
        }
        root
    }

    /// Takes out what starts at `page`.
    #[inline]
    pub(crate) fn remove(&mut self, page: u64) -> Option<T> {
        let leaf = self.leaf_again(page)?;
        let node = &mut self.nodes[leaf];
        let value = node.child(digit(page, 0))?;
        if node.clear(digit(page, 0)) && self.kept.is_none_or(|kept| !same_leaf(kept, page)) {
            self.keep_empty(page);
        }
        Some(self.values.remove(value))
    }

    /// Keeps the leaf of a page, which has become empty, and lets the one go that was kept before.
    #[inline(never)]
    fn keep_empty(&mut self, page: u64) {
        if let Some(before) = self.kept.replace(page)
            && let Some(leaf) = self.leaf(before)
            && self.nodes[leaf].present == 0
        {
            self.drop_leaf(before);
        }
    }

    /// Takes an empty leaf out, with the nodes that it leaves empty.
    fn drop_leaf(&mut self, page: u64) {
        let (place, pages) = near_place(page);
        if self.near[place].pages == pages {
            self.near[place] = NOWHERE;
        }
        if let Some(root) = self.root
            && self.drop_in(root, self.levels - 1, page)
        {
            self.root = None;
        }
    }

    /// Takes the empty leaf of `page` out, and says whether that left the node empty (and freed it).
    fn drop_in(&mut self, node: u32, below: u32, page: u64) -> bool {
        let digit = digit(page, below);
        let is_empty = match self.nodes[node].child(digit) {
            _ if below == 0 => true,
            Some(child) if self.drop_in(child, below - 1, page) => self.nodes[node].clear(digit),
            _ => false,
        };
        if is_empty {
            self.nodes.remove(node);
        }
        is_empty
    }

    /// The last value that starts at `page` or before, and where.
    pub(crate) fn at_or_before(&self, page: u64) -> Option<(u64, &T)> {
        let highest = (1 << (self.levels * LEVEL_BITS)) - 1;
        self.last_in(self.root?, self.levels - 1, page.min(highest))
    }

    fn last_in(&self, number: u32, below: u32, page: u64) -> Option<(u64, &T)> {
        let node = &self.nodes[number];
        let mut lower = node.present & (u64::MAX >> (FANOUT as u32 - 1 - digit(page, below)));
        // One leaf may be empty: then it is the one before.
        while let Some(found) = lower.checked_ilog2() {
            let (first, last) = span(page, below, found);
            let child = node.children[found as usize];
            if below == 0 {
                return Some((first, &self.values[child]));
            }
            if let Some(found) = self.last_in(child, below - 1, page.min(last)) {
                return Some(found);
            }
            lower &= !(1 << found);
        }
        None
    }

    /// The first value that starts at `page` or after, and where.
    pub(crate) fn at_or_after(&self, page: u64) -> Option<(u64, &T)> {
        if levels_for(page) > self.levels {
            return None;
        }
        self.first_in(self.root?, self.levels - 1, page)
    }

    fn first_in(&self, number: u32, below: u32, page: u64) -> Option<(u64, &T)> {
        let node = &self.nodes[number];
        let mut higher = node.present & (u64::MAX << digit(page, below));
        while higher != 0 {
            let found = higher.trailing_zeros();
            let (first, _) = span(page, below, found);
            let child = node.children[found as usize];
            if below == 0 {
                return Some((first, &self.values[child]));
            }
            if let Some(found) = self.first_in(child, below - 1, page.max(first)) {
                return Some(found);
            }
            higher &= !(1 << found);
        }
        None
    }

    /// Everything, by page.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        let mut from = 0;
        core::iter::from_fn(move || {
            let (page, value) = self.at_or_after(from)?;
            from = page + 1;
            Some((page, value))
        })
    }
}

/// Whether two pages are in the same leaf.
#[inline]
const fn same_leaf(one: u64, other: u64) -> bool {
    one >> LEVEL_BITS == other >> LEVEL_BITS
}

/// The first and the last page beneath child `digit` of the node with `below` levels beneath it that `page` is in.
const fn span(page: u64, below: u32, digit: u32) -> (u64, u64) {
    let beneath = below * LEVEL_BITS;
    let prefix = page >> beneath >> LEVEL_BITS << LEVEL_BITS | digit as u64;
    (prefix << beneath, prefix << beneath | ((1 << beneath) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    /// Pages near each other, and pages of every magnitude.
    fn page() -> impl Strategy<Value = u64> {
        prop_oneof![0..200u64, (0..46u32, 0..3u64).prop_map(|(bit, near)| (1 << bit) + near)]
    }

    proptest! {
        #[test]
        fn it_behaves_as_an_ordered_map(steps in prop::collection::vec((page(), 0..3u8), 1..300)) {
            let (mut map, mut model) = (PageMap::new(), BTreeMap::new());
            for (value, (page, step)) in steps.into_iter().enumerate() {
                match step {
                    0 => prop_assert_eq!(map.remove(page), model.remove(&page)),
                    _ if model.contains_key(&page) => {
                        if let Some(known) = map.get_mut(page) {
                            *known = value;
                        }
                        model.insert(page, value);
                    }
                    _ => {
                        map.insert(page, value);
                        model.insert(page, value);
                    }
                }
                for probe in [page, page + 1, page.saturating_sub(1), page * 2, u64::MAX >> 12] {
                    prop_assert_eq!(map.get(probe), model.get(&probe));
                    let before = model.range(..=probe).next_back().map(|(&at, value)| (at, value));
                    prop_assert_eq!(map.at_or_before(probe), before);
                    let after = model.range(probe..).next().map(|(&at, value)| (at, value));
                    prop_assert_eq!(map.at_or_after(probe), after);
                }
            }
            prop_assert!(map.iter().eq(model.iter().map(|(&at, value)| (at, value))));
            for page in model.into_keys() {
                map.remove(page);
            }
            prop_assert_eq!(map.iter().count(), 0);
            // All that is left is the way to one leaf.
            prop_assert!(map.nodes.in_use() <= map.levels as usize);
        }
    }

    #[test]
    fn what_comes_and_goes_at_one_place_makes_no_leaf_each_time() {
        let mut map = PageMap::new();
        map.insert(0x10_0000, 1);
        let nodes = map.nodes.in_use();
        assert_eq!((map.remove(0x10_0000), map.nodes.in_use()), (Some(1), nodes));
        map.insert(0x10_0001, 2);
        map.insert(0x20_0000, 3);
        assert_eq!(map.remove(0x10_0001), Some(2));
        // The leaf that is kept is gone when another one is empty.
        assert_eq!(map.remove(0x20_0000), Some(3));
        assert_eq!(map.nodes.in_use(), nodes);
        assert_eq!((map.get(0x10_0001), map.at_or_before(0x30_0000)), (None, None));
    }
}
