//! The tables that were used last: the next range is often in one of them.
//!
//! How many of their entries are in use is counted here, and written into the tables when others are used: what stands
//! there meanwhile is what it was before.

use core::sync::atomic::AtomicU64;

use dma_types::PhysAddr;

use super::format::{Format, index, slot_mask, table_mask};
use super::node::Node;
use crate::platform::TableFrames;

/// Of each of the lowest levels, the table used last. All are forgotten when anything else is changed than one of them.
#[derive(Debug)]
pub(super) struct Near([Used; 3]);

/// A table that was used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// The first address that it holds.
    base: u64,
    pub(super) frame: PhysAddr,
    /// How many of its entries are in use.
    pub(super) live: usize,
}

impl Used {
    /// None. No table starts with this address.
    const NONE: Self = Self { base: u64::MAX, frame: PhysAddr::new(0), live: 0 };

    /// Writes what was counted into the table, and forgets it.
    fn settle<F: Format>(&mut self, frames: &impl TableFrames, format: F, level: u8) {
        if self.base != Self::NONE.base
            && let Ok(node) = Node::new(frames, format, self.frame, level)
        {
            node.set_live(self.live);
        }
        *self = Self::NONE;
    }
}

impl Near {
    /// None.
    pub(super) const NONE: Self = Self([Used::NONE; 3]);

    /// The table of a level, if it holds a range.
    #[inline(always)]
    pub(super) fn get_mut(&mut self, level: u8, start: u64, last: u64) -> Option<&mut Used> {
        let used = self.0.get_mut(usize::from(level))?;
        (((start ^ used.base) | (last ^ used.base)) <= table_mask(level)).then_some(used)
    }

    /// The entry for a page at an address, if that is in a table used last for pages as long as its entries span.
    #[inline(always)]
    pub(super) fn slot<'a>(
        &mut self,
        frames: &'a impl TableFrames,
        level: u8,
        iova: u64,
    ) -> Option<(&mut Used, &'a AtomicU64)> {
        if iova & slot_mask(level) != 0 {
            return None;
        }
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
        let used = self.0.get_mut(usize::from(node.level))?;
        let base = node.base(address);
        if used.base != base {
            used.settle(frames, node.format, node.level);
            // None and all of them look the same in the table.
            let live = match node.live() {
                0 if !node.is_empty() => node.words.len(),
                live => live,
            };
            *used = Used { base, frame: node.frame, live };
        }
        Some(used)
    }

    /// Writes what was counted into the tables, and forgets them.
    pub(super) fn settle<F: Format>(&mut self, frames: &impl TableFrames, format: F) {
        for (level, used) in (0..).zip(&mut self.0) {
            used.settle(frames, format, level);
        }
    }

    /// What a table counts, if it is one of these.
    #[cfg(test)]
    pub(super) fn counted(&self, frame: PhysAddr) -> Option<usize> {
        let used = self.0.iter().find(|used| used.base != Used::NONE.base && used.frame == frame);
        used.map(|used| used.live)
    }
}
