//! The tables that were used last: the next range is often in one of them.
//!
//! How many of their entries are in use is counted here, and written into the tables when others are used: what stands
//! there meanwhile is what it was before.
//!
//! One table stays linked although it is empty: what comes and goes alone in a table would make that anew each time. It counts
//! one entry more than it has while it is one of those used last, so that none of its own is the last that goes with the table.

use core::sync::atomic::AtomicU64;

use dma_types::PhysAddr;

use super::format::{Format, index, table_mask};
use super::node::Node;
use crate::platform::TableFrames;

/// Of each of the lowest levels, the table used last. All are forgotten when anything else is changed than one of them.
#[derive(Debug)]
pub(super) struct Near {
    used: [Used; 3],
    /// The table that stays when it is empty. It may be in use again.
    kept: Option<Kept>,
}

/// A table that stays linked although it is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// The first address that it holds.
    pub(super) base: u64,
    pub(super) frame: PhysAddr,
    level: u8,
}

impl Kept {
    /// This one, in which an address is.
    pub(super) fn new<F: Format>(node: &Node<'_, F>, address: u64) -> Self {
        Self { base: node.base(address), frame: node.frame, level: node.level }
    }
}

/// A table that was used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// The first address that it holds.
    base: u64,
    pub(super) frame: PhysAddr,
    /// How many of its entries are in use, and one more if it is kept.
    pub(super) live: usize,
    is_kept: bool,
}

impl Used {
    /// None. No table starts with this address.
    const NONE: Self = Self { base: u64::MAX, frame: PhysAddr::new(0), live: 0, is_kept: false };

    /// How many of its entries are in use.
    fn in_use(&self) -> usize {
        self.live - usize::from(self.is_kept)
    }

    /// Writes what was counted into the table, and forgets it.
    fn settle<F: Format>(&mut self, frames: &impl TableFrames, format: F, level: u8) {
        if self.base != Self::NONE.base
            && let Ok(node) = Node::new(frames, format, self.frame, level)
        {
            node.set_live(self.in_use());
        }
        *self = Self::NONE;
    }
}

impl Near {
    /// None.
    pub(super) const NONE: Self = Self { used: [Used::NONE; 3], kept: None };

    /// The table of a level, if it holds a range.
    #[inline(always)]
    pub(super) fn get_mut(&mut self, level: u8, start: u64, last: u64) -> Option<&mut Used> {
        let used = self.used.get_mut(usize::from(level))?;
        (((start ^ used.base) | (last ^ used.base)) <= table_mask(level)).then_some(used)
    }

    /// Whether the table of a level holds a range.
    #[inline(always)]
    pub(super) fn holds(&self, level: u8, start: u64, last: u64) -> bool {
        let base = self.used.get(usize::from(level)).map_or(Used::NONE.base, |used| used.base);
        ((start ^ base) | (last ^ base)) <= table_mask(level)
    }

    /// The entry for a page at an address, if that is in a table used last for pages as long as its entries span.
    #[inline(always)]
    pub(super) fn slot<'a>(
        &mut self,
        frames: &'a impl TableFrames,
        level: u8,
        iova: u64,
    ) -> Option<(&mut Used, &'a AtomicU64)> {
        let used = self.get_mut(level, iova, iova)?;
        let words = frames.table(used.frame)?;
        Some((used, &words[index(level, iova)]))
    }

    /// What the table that an address is in counts: it is the one used last from now on.
    #[inline]
    pub(super) fn of<F: Format>(
        &mut self,
        frames: &impl TableFrames,
        node: &Node<'_, F>,
        address: u64,
    ) -> Option<&mut Used> {
        let used = self.used.get_mut(usize::from(node.level))?;
        let base = node.base(address);
        if used.base != base {
            used.settle(frames, node.format, node.level);
            // None and all of them look the same in the table.
            let live = match node.live() {
                0 if !node.is_empty() => node.words.len(),
                live => live,
            };
            let is_kept = self.kept.is_some_and(|kept| kept.frame == node.frame);
            let live = live + usize::from(is_kept);
            *used = Used { base, frame: node.frame, live, is_kept };
        }
        Some(used)
    }

    /// Has the table used last of a level stay when it is empty, if none does that is empty now.
    #[cold]
    pub(super) fn keep<F: Format>(
        &mut self,
        frames: &impl TableFrames,
        format: F,
        level: u8,
    ) -> bool {
        if self.empty(frames, format).is_some() {
            return false;
        }
        self.keep_none();
        let Some(used) = self.used.get_mut(usize::from(level)) else { return false };
        (used.live, used.is_kept) = (used.live + 1, true);
        self.kept = Some(Kept { base: used.base, frame: used.frame, level });
        true
    }

    /// The table that is kept, if it is empty.
    pub(super) fn empty<F: Format>(&self, frames: &impl TableFrames, format: F) -> Option<Kept> {
        let kept = self.kept?;
        let used = self.used.iter().find(|used| used.is_kept);
        let is_empty = match used {
            Some(used) => used.in_use() == 0,
            None => Node::new(frames, format, kept.frame, kept.level).ok()?.is_empty(),
        };
        is_empty.then_some(kept)
    }

    /// Has no table stay when it is empty.
    pub(super) fn keep_none(&mut self) {
        self.kept = None;
        for used in self.used.iter_mut().filter(|used| used.is_kept) {
            (used.live, used.is_kept) = (used.in_use(), false);
        }
    }

    /// Has another table stay when it is empty, if one is to, and in any case none of these, which are unlinked. No table is one
    /// of those used last.
    pub(super) fn keep_instead(&mut self, kept: Option<Kept>, unlinked: &[PhysAddr]) {
        let before = self.kept.filter(|kept| !unlinked.contains(&kept.frame));
        self.kept = kept.or(before);
    }

    /// Writes what was counted into the tables, and forgets them.
    pub(super) fn settle<F: Format>(&mut self, frames: &impl TableFrames, format: F) {
        for (level, used) in (0..).zip(&mut self.used) {
            used.settle(frames, format, level);
        }
    }

    /// What a table counts, if it is one of these.
    #[cfg(test)]
    pub(super) fn counted(&self, frame: PhysAddr) -> Option<usize> {
        let is_it = |used: &&Used| used.base != Used::NONE.base && used.frame == frame;
        self.used.iter().find(is_it).map(Used::in_use)
    }
}
