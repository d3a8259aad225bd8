//! The free ranges, in a tree that finds the lowest fit.
//!
//! A binary radix tree over the *end* of each range, without the levels at which nothing branches, so
//! that it is never deeper than an address has bits, whatever the order of frees, and never needs
//! balancing. Each branch knows the most pages that any range beneath it has, counted from its first page,
//! from its first 2 MiB boundary and from its first 1 GiB boundary. The lowest range with room is then one
//! walk away, however many there are, and a range above a limit is never looked at twice.
//!
//! The end is the key because allocation takes from the low side: the range keeps its place.

use core::ops::Range;

use crate::slab::Slab;
use crate::table::format::INDEX_BITS;

/// A run of free pages: `start` to `end`, the latter not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FreeRange {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The alignments, as powers of two of pages, for which branches count room: 4 KiB, 2 MiB, 1 GiB, the page
/// sizes of both vendors' tables.
const COUNTED_ORDERS: [u32; 3] = [0, INDEX_BITS, 2 * INDEX_BITS];

/// Pages of room at each of [`COUNTED_ORDERS`].
type Room = [u64; COUNTED_ORDERS.len()];

/// How many ranges are tried one by one for an alignment that branches do not count.
const TRIED: usize = 32;

/// The first multiple of `1 << order` pages from `page` on. `order` is at most 51, for an alignment of 2^63
/// bytes, and pages are below 2^46: the sum fits.
const fn align_up(page: u64, order: u32) -> u64 {
    let below = (1 << order) - 1;
    (page + below) & !below
}

impl FreeRange {
    /// Where `pages` pages fit lowest in this range, from `floor` on.
    fn fit(self, floor: u64, pages: u64, order: u32) -> Option<u64> {
        let start = align_up(self.start.max(floor), order);
        (start + pages <= self.end).then_some(start)
    }

    fn room_at(self, order: u32) -> u64 {
        self.end.saturating_sub(align_up(self.start, order))
    }

    fn room(self) -> Room {
        COUNTED_ORDERS.map(|order| self.room_at(order))
    }
}

#[derive(Clone, Copy, Debug)]
enum Link {
    Branch(u32),
    Range(u32),
}

/// The ranges that end within the same aligned power of two of pages.
#[derive(Clone, Copy, Debug)]
struct Branch {
    /// The middle of that power of two: lower ends are to the left, the rest to the right. Its lowest set
    /// bit is the bit that the branch decides, the bits above are common to all.
    middle: u64,
    room: Room,
    left: Link,
    right: Link,
}

impl Branch {
    /// Whether a range that ends at `end` belongs beneath this branch.
    #[inline]
    fn covers(&self, end: u64) -> bool {
        (end ^ self.middle) >> self.middle.trailing_zeros() >> 1 == 0
    }

    /// The highest end that belongs here.
    #[inline]
    fn last(&self) -> u64 {
        self.middle | (self.middle - 1)
    }

    #[inline]
    fn side(&mut self, end: u64) -> &mut Link {
        if end < self.middle { &mut self.left } else { &mut self.right }
    }
}

/// The branches from the root to some place. Ends have at most 46 bits and each branch decides one.
struct Path {
    branches: [u32; 48],
    len: usize,
}

/// All free ranges. No two touch.
#[derive(Debug)]
pub(super) struct FreeRanges {
    root: Option<Link>,
    branches: Slab<Branch>,
    ranges: Slab<FreeRange>,
}

impl FreeRanges {
    /// No free ranges.
    pub(super) const fn new() -> Self {
        Self { root: None, branches: Slab::new(), ranges: Slab::new() }
    }

    /// The first range that ends at `end` or after.
    pub(super) fn ending_from(&self, end: u64) -> Option<FreeRange> {
        let mut link = self.root?;
        let mut nearest = None;
        while let Link::Branch(number) = link {
            let branch = &self.branches[number];
            if end < branch.middle {
                nearest = Some(branch.right);
                link = branch.left;
            } else if end <= branch.last() {
                link = branch.right;
            } else {
                break;
            }
        }
        if let Link::Range(range) = link
            && self.ranges[range].end >= end
        {
            return Some(self.ranges[range]);
        }
        let mut link = nearest?;
        loop {
            match link {
                Link::Range(range) => return Some(self.ranges[range]),
                Link::Branch(branch) => link = self.branches[branch].left,
            }
        }
    }

    /// Whether all of `start` to `end` is free.
    pub(super) fn contains(&self, start: u64, end: u64) -> bool {
        self.ending_from(end).is_some_and(|range| range.start <= start)
    }

    /// The lowest start, at `floor` or after, of `pages` free pages at a multiple of `1 << order` pages, and the range in which
    /// that is.
    ///
    /// Exact for the alignments that branches count. For others, when the first [`TRIED`] ranges that are
    /// long enough all start wrong, only ranges are considered that have room wherever they start.
    pub(super) fn find(&self, floor: u64, pages: u64, order: u32) -> Option<(u64, FreeRange)> {
        // The floor may lie within a range, and then what branches know of that one does not hold.
        let first = self.ending_from(floor + 1)?;
        if let Some(start) = first.fit(floor, pages, order) {
            return Some((start, first));
        }
        let counted = COUNTED_ORDERS.iter().rposition(|&counted| counted <= order).unwrap_or(0);
        let mut from = first.end + 1;
        for _ in 0..TRIED {
            let range = self.lowest(from, counted, pages)?;
            if let Some(start) = range.fit(floor, pages, order) {
                return Some((start, range));
            }
            from = range.end + 1;
        }
        let slack = (1 << order) - (1 << COUNTED_ORDERS[counted]);
        let range = self.lowest(from, counted, pages + slack)?;
        range.fit(floor, pages, order).map(|start| (start, range))
    }

    /// The first range that ends at `end` or after and has `pages` pages of room at a counted order.
    fn lowest(&self, end: u64, counted: usize, pages: u64) -> Option<FreeRange> {
        // Down towards `end`, past places to the right where there is room: the last of those is the
        // nearest to `end`, should there be nothing at its own place.
        let mut link = self.root?;
        let mut nearest = None;
        while let Link::Branch(number) = link {
            let branch = &self.branches[number];
            if branch.last() < end || branch.room[counted] < pages {
                break;
            }
            if end < branch.middle {
                if self.has_room(branch.right, counted, pages) {
                    nearest = Some(branch.right);
                }
                link = branch.left;
            } else {
                link = branch.right;
            }
        }
        if let Link::Range(range) = link
            && self.ranges[range].end >= end
            && self.has_room(link, counted, pages)
        {
            return Some(self.ranges[range]);
        }
        let mut link = nearest?;
        loop {
            match link {
                Link::Range(range) => return Some(self.ranges[range]),
                Link::Branch(number) => {
                    let Branch { left, right, .. } = self.branches[number];
                    link = if self.has_room(left, counted, pages) { left } else { right };
                }
            }
        }
    }

    #[inline]
    fn has_room(&self, link: Link, counted: usize, pages: u64) -> bool {
        match link {
            Link::Range(range) => self.ranges[range].room_at(COUNTED_ORDERS[counted]) >= pages,
            Link::Branch(branch) => self.branches[branch].room[counted] >= pages,
        }
    }

    /// The most free pages in a row before page `limit`.
    pub(super) fn longest_before(&self, limit: u64) -> u64 {
        let whole = self.root.map_or(0, |root| self.longest_ending_by(root, limit));
        let cut = self.ending_from(limit + 1).map_or(0, |range| limit.saturating_sub(range.start));
        whole.max(cut)
    }

    fn longest_ending_by(&self, link: Link, end: u64) -> u64 {
        match link {
            Link::Range(range) => {
                let range = self.ranges[range];
                if range.end <= end { range.end - range.start } else { 0 }
            }
            Link::Branch(branch) => {
                let branch = &self.branches[branch];
                if branch.last() <= end {
                    return branch.room[0];
                }
                let left = self.longest_ending_by(branch.left, end);
                if end < branch.middle {
                    return left;
                }
                left.max(self.longest_ending_by(branch.right, end))
            }
        }
    }

    /// Takes `start` to `end`, all of which is free, out.
    pub(super) fn take(&mut self, start: u64, end: u64) {
        if let Some(range) = self.ending_from(end) {
            self.take_of(range, start, end);
        }
    }

    /// Takes `start` to `end` out of the free range that they are in.
    pub(super) fn take_of(&mut self, range: FreeRange, start: u64, end: u64) {
        debug_assert!(range.start <= start && end <= range.end);
        if end < range.end {
            self.move_start(range.end, end);
        } else {
            self.remove(range.end);
        }
        if range.start < start {
            self.insert(FreeRange { start: range.start, end: start });
        }
    }

    /// Puts `start` to `end`, none of which is free, back, and joins it with its free neighbours.
    pub(super) fn give(&mut self, start: u64, end: u64) {
        let before = self.ending_at(start).map(|before| before.start);
        let first = before.unwrap_or(start);
        match self.ending_from(end + 1) {
            Some(after) if after.start == end => self.move_start(after.end, first),
            _ => self.insert(FreeRange { start: first, end }),
        }
        if before.is_some() {
            // Last, when there is more room beside it than goes with it: few branches change then.
            self.remove(start);
        }
    }

    /// Puts several back, each of which is behind the one before: those that touch as one.
    pub(super) fn give_all(&mut self, ranges: impl IntoIterator<Item = Range<u64>>) {
        let mut joined = 0..0;
        for range in ranges {
            if range.start != joined.end {
                let before = core::mem::replace(&mut joined, range.clone());
                self.give_some(before);
            }
            joined.end = range.end;
        }
        self.give_some(joined);
    }

    /// Puts a range back, if it is not empty.
    pub(super) fn give_some(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.give(range.start, range.end);
        }
    }

    /// Walks down towards `end` as far as branches cover it, and says what is there.
    fn descend(&self, root: Link, end: u64) -> (Path, Link) {
        let mut path = Path { branches: [0; 48], len: 0 };
        let mut link = root;
        while let Link::Branch(number) = link {
            let branch = &self.branches[number];
            if !branch.covers(end) {
                break;
            }
            path.branches[path.len] = number;
            path.len += 1;
            link = if end < branch.middle { branch.left } else { branch.right };
        }
        (path, link)
    }

    fn room(&self, link: Link) -> Room {
        match link {
            Link::Range(range) => self.ranges[range].room(),
            Link::Branch(branch) => self.branches[branch].room,
        }
    }

    /// Counts the room of the branches in `path` again, from the bottom up until nothing changes.
    fn recount(&mut self, path: &Path) {
        for &number in path.branches[..path.len].iter().rev() {
            let Branch { left, right, room: known, .. } = self.branches[number];
            let (left, right) = (self.room(left), self.room(right));
            let room = core::array::from_fn(|counted| left[counted].max(right[counted]));
            if room == known {
                break;
            }
            self.branches[number].room = room;
        }
    }

    /// Counts in the branches of `path` what a range has come to have, from the bottom up until nothing changes.
    fn raise(&mut self, path: &Path, range: FreeRange) {
        let room = range.room();
        for &number in path.branches[..path.len].iter().rev() {
            let known = &mut self.branches[number].room;
            if known.iter().zip(room).all(|(known, room)| *known >= room) {
                break;
            }
            known.iter_mut().zip(room).for_each(|(known, room)| *known = room.max(*known));
        }
    }

    /// Makes `link` what hangs at the end of `path` on the side of `end`.
    fn hang(&mut self, path: &Path, end: u64, link: Link) {
        match path.branches[..path.len].last() {
            Some(&parent) => *self.branches[parent].side(end) = link,
            None => self.root = Some(link),
        }
    }

    fn insert(&mut self, range: FreeRange) {
        let new = Link::Range(self.ranges.insert(range));
        let Some(root) = self.root else {
            self.root = Some(new);
            return;
        };
        let (path, old) = self.descend(root, range.end);
        let beside = match old {
            Link::Range(old) => self.ranges[old].end,
            Link::Branch(old) => self.branches[old].middle,
        };
        let bit = (range.end ^ beside).ilog2();
        let middle = (range.end >> bit | 1) << bit;
        let (left, right) = if range.end < middle { (new, old) } else { (old, new) };
        let (at_left, at_right) = (self.room(left), self.room(right));
        let room = core::array::from_fn(|counted| at_left[counted].max(at_right[counted]));
        let branch = self.branches.insert(Branch { middle, room, left, right });
        self.hang(&path, range.end, Link::Branch(branch));
        self.raise(&path, range);
    }

    /// The range that ends at `end`.
    fn ending_at(&self, end: u64) -> Option<FreeRange> {
        let mut link = self.root?;
        while let Link::Branch(number) = link {
            let branch = &self.branches[number];
            link = if end < branch.middle { branch.left } else { branch.right };
        }
        let Link::Range(number) = link else { return None };
        Some(self.ranges[number]).filter(|range| range.end == end)
    }

    /// Removes the range that ends at `end`, if one does.
    fn remove(&mut self, end: u64) -> Option<FreeRange> {
        let (mut path, Link::Range(number)) = self.descend(self.root?, end) else { return None };
        if self.ranges[number].end != end {
            return None;
        }
        let range = self.ranges.remove(number);
        let Some(&parent) = path.branches[..path.len].last() else {
            self.root = None;
            return Some(range);
        };
        path.len -= 1;
        let Branch { middle, left, right, .. } = self.branches.remove(parent);
        let other = if end < middle { right } else { left };
        self.hang(&path, end, other);
        self.recount(&path);
        Some(range)
    }

    /// Makes the range that ends at `end` start at `start`.
    fn move_start(&mut self, end: u64, start: u64) {
        let Some(root) = self.root else { return };
        let (path, Link::Range(number)) = self.descend(root, end) else { return };
        let range = FreeRange { start, end };
        if start < core::mem::replace(&mut self.ranges[number], range).start {
            self.raise(&path, range);
        } else {
            self.recount(&path);
        }
    }

    /// All ranges, in order.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = FreeRange> {
        let mut from = 0;
        core::iter::from_fn(move || {
            let range = self.ending_from(from)?;
            from = range.end + 1;
            Some(range)
        })
    }
}
