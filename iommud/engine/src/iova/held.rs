//! The allocated ranges, found by address in a fixed number of steps.
//!
//! A tree of 64-way nodes over the number of a range's first page, six bits a level. It is as high as its
//! highest page needs, four levels up to 64 GiB, and not as its number of ranges: the millionth costs what
//! the first did, and no choice of addresses makes it unbalanced. A client that scatters ranges as widely
//! as it can costs fewer bytes here than in the page tables that map them.

use alloc::vec::Vec;

use bitfield_struct::bitfield;

use super::slab::Slab;

/// What is known of a range, besides its first page.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct Held {
    /// Its pages, the guard not counted. Wide enough for any size that bytes can name.
    #[bits(62)]
    pub(super) pages: u64,
    /// Whether a guard page follows it.
    pub(super) guard: bool,
    /// Whether it has been freed and waits in a magazine.
    pub(super) idle: bool,
}

impl Held {
    /// Its pages with the guard.
    pub(super) const fn span(self) -> u64 {
        self.pages() + self.guard() as u64
    }
}

/// How many bits of a page number one level decodes: a node's occupancy is one word.
const LEVEL_BITS: u32 = 6;
const FANOUT: usize = 1 << LEVEL_BITS;

#[derive(Debug)]
struct Inner {
    /// Bit n: there is a child n.
    present: u64,
    children: [u32; FANOUT],
}

impl Default for Inner {
    fn default() -> Self {
        Self { present: 0, children: [0; FANOUT] }
    }
}

/// Leaves are packed, because large ranges leave most of their 64 places empty.
#[derive(Debug, Default)]
struct Leaf {
    /// Bit n: a range starts at page n of these 64.
    present: u64,
    /// Those ranges, in order.
    ranges: Vec<Held>,
}

impl Leaf {
    /// Where the range of place `digit` is, or would be, in `ranges`.
    #[inline]
    fn rank(&self, digit: u32) -> usize {
        (self.present & ((1 << digit) - 1)).count_ones() as usize
    }

    #[inline]
    fn get(&self, digit: u32) -> Option<Held> {
        if self.present >> digit & 1 == 0 {
            return None;
        }
        self.ranges.get(self.rank(digit)).copied()
    }
}

/// Ranges by first page.
#[derive(Debug)]
pub(super) struct HeldRanges {
    /// The top node: a leaf if `levels` is 1.
    root: Option<u32>,
    levels: u32,
    inner: Slab<Inner>,
    leaves: Slab<Leaf>,
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

impl HeldRanges {
    /// No ranges.
    pub(super) const fn new() -> Self {
        Self { root: None, levels: 1, inner: Slab::new(), leaves: Slab::new() }
    }

    /// The leaf that a range starting at `page` is in.
    #[inline]
    fn leaf(&self, page: u64) -> Option<u32> {
        let mut node = self.root?;
        if levels_for(page) > self.levels {
            return None;
        }
        for below in (1..self.levels).rev() {
            let inner = &self.inner[node];
            let digit = digit(page, below);
            if inner.present >> digit & 1 == 0 {
                return None;
            }
            node = inner.children[digit as usize];
        }
        Some(node)
    }

    /// The range that starts at `page`.
    #[inline]
    pub(super) fn get(&self, page: u64) -> Option<Held> {
        self.leaves[self.leaf(page)?].get(digit(page, 0))
    }

    /// What is known of the range that starts at `page`, to be changed.
    #[inline]
    pub(super) fn get_mut(&mut self, page: u64) -> Option<&mut Held> {
        let leaf = self.leaf(page)?;
        let leaf = &mut self.leaves[leaf];
        let digit = digit(page, 0);
        if leaf.present >> digit & 1 == 0 {
            return None;
        }
        let rank = leaf.rank(digit);
        leaf.ranges.get_mut(rank)
    }

    /// Adds a range that starts at `page`, where none did.
    pub(super) fn insert(&mut self, page: u64, held: Held) {
        let levels = levels_for(page);
        let mut node = match self.root {
            None => {
                self.levels = levels;
                self.new_node(levels)
            }
            Some(root) => self.grow(root, levels),
        };
        self.root = Some(node);
        for below in (1..self.levels).rev() {
            let digit = digit(page, below);
            if self.inner[node].present >> digit & 1 == 0 {
                let child = self.new_node(below);
                let inner = &mut self.inner[node];
                inner.children[digit as usize] = child;
                inner.present |= 1 << digit;
            }
            node = self.inner[node].children[digit as usize];
        }
        let leaf = &mut self.leaves[node];
        let digit = digit(page, 0);
        let rank = leaf.rank(digit);
        leaf.present |= 1 << digit;
        leaf.ranges.insert(rank, held);
    }

    /// An empty node that is the top of this many levels.
    fn new_node(&mut self, levels: u32) -> u32 {
        if levels == 1 {
            self.leaves.insert(Leaf::default())
        } else {
            self.inner.insert(Inner::default())
        }
    }

    /// Puts nodes above the root until the tree has at least `levels` levels, and gives the new root.
    fn grow(&mut self, root: u32, levels: u32) -> u32 {
        let mut root = root;
        while self.levels < levels {
            let mut above = Inner { present: 1, ..Inner::default() };
            above.children[0] = root;
            root = self.inner.insert(above);
            self.levels += 1;
        }
        root
    }

    /// Takes the range that starts at `page` out, with the nodes that it leaves empty.
    pub(super) fn remove(&mut self, page: u64) -> Option<Held> {
        let held = self.get(page)?;
        let root = self.root?;
        if self.remove_in(root, self.levels - 1, page) {
            self.root = None;
        }
        Some(held)
    }

    /// Removes `page`, which is there, and says whether that left the node empty (and freed it).
    fn remove_in(&mut self, node: u32, below: u32, page: u64) -> bool {
        let digit = digit(page, below);
        if below == 0 {
            let leaf = &mut self.leaves[node];
            leaf.ranges.remove(leaf.rank(digit));
            leaf.present &= !(1 << digit);
            let empty = leaf.present == 0;
            if empty {
                self.leaves.remove(node);
            }
            return empty;
        }
        let child = self.inner[node].children[digit as usize];
        if !self.remove_in(child, below - 1, page) {
            return false;
        }
        let inner = &mut self.inner[node];
        inner.present &= !(1 << digit);
        let empty = inner.present == 0;
        if empty {
            self.inner.remove(node);
        }
        empty
    }

    /// The last range that starts at `page` or before.
    pub(super) fn at_or_before(&self, page: u64) -> Option<(u64, Held)> {
        let highest = (1 << (self.levels * LEVEL_BITS)) - 1;
        self.last_in(self.root?, self.levels - 1, page.min(highest))
    }

    fn last_in(&self, node: u32, below: u32, page: u64) -> Option<(u64, Held)> {
        let wanted = digit(page, below);
        if below == 0 {
            let leaf = &self.leaves[node];
            let lower = leaf.present & (u64::MAX >> (63 - wanted));
            let found = lower.checked_ilog2()?;
            return Some((page & !(FANOUT as u64 - 1) | u64::from(found), leaf.get(found)?));
        }
        let inner = &self.inner[node];
        if inner.present >> wanted & 1 == 1 {
            let child = inner.children[wanted as usize];
            if let Some(found) = self.last_in(child, below - 1, page) {
                return Some(found);
            }
        }
        // Nothing there at `page` or before: the last range of the nearest child before, then.
        let found = (inner.present & ((1 << wanted) - 1)).checked_ilog2()?;
        let beneath = below * LEVEL_BITS;
        let prefix = page >> (beneath + LEVEL_BITS) << LEVEL_BITS | u64::from(found);
        let last = prefix << beneath | ((1 << beneath) - 1);
        self.last_in(inner.children[found as usize], below - 1, last)
    }

    /// The first range that starts at `page` or after.
    pub(super) fn at_or_after(&self, page: u64) -> Option<(u64, Held)> {
        if levels_for(page) > self.levels {
            return None;
        }
        self.first_in(self.root?, self.levels - 1, page)
    }

    fn first_in(&self, node: u32, below: u32, page: u64) -> Option<(u64, Held)> {
        let wanted = digit(page, below);
        if below == 0 {
            let leaf = &self.leaves[node];
            let higher = leaf.present & (u64::MAX << wanted);
            let found = if higher == 0 { return None } else { higher.trailing_zeros() };
            return Some((page & !(FANOUT as u64 - 1) | u64::from(found), leaf.get(found)?));
        }
        let inner = &self.inner[node];
        if inner.present >> wanted & 1 == 1 {
            let child = inner.children[wanted as usize];
            if let Some(found) = self.first_in(child, below - 1, page) {
                return Some(found);
            }
        }
        let higher = inner.present & (u64::MAX << wanted << 1);
        let found = if higher == 0 { return None } else { higher.trailing_zeros() };
        let beneath = below * LEVEL_BITS;
        let prefix = page >> (beneath + LEVEL_BITS) << LEVEL_BITS | u64::from(found);
        self.first_in(inner.children[found as usize], below - 1, prefix << beneath)
    }
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
            let (mut held, mut model) = (HeldRanges::new(), BTreeMap::new());
            for (number, (page, step)) in steps.into_iter().enumerate() {
                let value = Held::new().with_pages(number as u64);
                match step {
                    0 => prop_assert_eq!(held.remove(page), model.remove(&page)),
                    _ if model.contains_key(&page) => {
                        if let Some(known) = held.get_mut(page) {
                            *known = value;
                        }
                        model.insert(page, value);
                    }
                    _ => {
                        held.insert(page, value);
                        model.insert(page, value);
                    }
                }
                for probe in [page, page + 1, page.saturating_sub(1), page * 2, u64::MAX] {
                    prop_assert_eq!(held.get(probe), model.get(&probe).copied());
                    let before = model.range(..=probe).next_back().map(|(&at, &value)| (at, value));
                    prop_assert_eq!(held.at_or_before(probe), before);
                    let after = model.range(probe..).next().map(|(&at, &value)| (at, value));
                    prop_assert_eq!(held.at_or_after(probe), after);
                }
            }
            for page in model.into_keys() {
                held.remove(page);
            }
            prop_assert!(held.root.is_none());
        }
    }
}
