//! Entries of a table that there is, in and out of it without a walk.
//!
//! Most of what is mapped and unmapped is a page, or some, of the table that was used last. Where that is not so, or anything is
//! odd, nothing is done, and [`map`](PageTable::map) and [`unmap`](PageTable::unmap) go the way that every range can go.

use core::slice;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};

use super::enter::{Place, find};
use super::fill::fill_small;
use super::format::{
    Entry, Format, LARGE_PAGE, Permissions, index, low_bits, shift, slot_mask, table_mask,
};
use super::near::Used;
use super::node::Node;
use super::page_table::{PageTable, Span};
use super::remove::clear_some;
use crate::platform::{Segment, TableFrames};

impl<F: Format> PageTable<F> {
    /// Maps one piece of memory as [`map`](Self::map) does, if that is entries of one table that there is, and all is as it
    /// must be. Else nothing has changed.
    #[inline(always)]
    pub fn map_at_hand(
        &mut self,
        frames: &impl TableFrames,
        iova: Iova,
        piece: Segment,
        access: Access,
    ) -> bool {
        let permissions = access.into();
        // Written twice, so that shifts and masks are known.
        match piece.bytes {
            PAGE_SIZE => self.enter_entry(frames, 0, iova.get(), piece.start, permissions),
            LARGE_PAGE if self.format.page_sizes() & LARGE_PAGE != 0 => {
                self.enter_entry(frames, 1, iova.get(), piece.start, permissions)
            }
            _ => self.map_pieces_at_hand(frames, iova, slice::from_ref(&piece), access),
        }
    }

    /// The same of several pieces, as small pages.
    #[inline(never)]
    pub fn map_pieces_at_hand(
        &mut self,
        frames: &impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        access: Access,
    ) -> bool {
        let span = self.span_of(iova, memory);
        span.is_ok_and(|span| self.enter_near(frames, span, memory, access.into()))
    }

    /// Enters memory in a table of the lowest level that there is.
    pub(super) fn enter_near(
        &mut self,
        frames: &impl TableFrames,
        span: Span,
        memory: &[Segment],
        permissions: Permissions,
    ) -> bool {
        // As much as all of a table holds may be a large page.
        if span.last - span.start == table_mask(0) || !self.has_near(frames, 0, span) {
            return false;
        }
        let Some(used) = self.near.get_mut(0, span.start, span.last) else { return false };
        let Ok(node) = Node::new(frames, self.format, used.frame, 0) else { return false };
        let Ok(entered) = fill_small(frames, &node, span, memory, permissions) else {
            return false;
        };
        used.live += entered;
        true
    }

    /// Whether the table used last of a level, or after a walk any other that there is, holds a range: that is the one used last
    /// from then on.
    #[inline(always)]
    pub(super) fn has_near(&mut self, frames: &impl TableFrames, level: u8, span: Span) -> bool {
        self.near.holds(level, span.start, span.last) || self.use_table(frames, level, span)
    }

    #[inline(never)]
    fn use_table(&mut self, frames: &impl TableFrames, level: u8, span: Span) -> bool {
        let is_one = (span.start ^ span.last) <= table_mask(level) && span.last <= self.reach();
        let Some(root) = self.root_node(frames).ok().filter(|_| is_one) else { return false };
        match find(frames, root, span.start, level) {
            Ok(Place::Table(node)) if node.level == level => {
                self.near.of(frames, &node, span.start).is_some()
            }
            _ => false,
        }
    }

    /// Enters a page in a table that there is, if the entry is empty.
    #[inline(always)]
    fn enter_entry(
        &mut self,
        frames: &impl TableFrames,
        level: u8,
        iova: u64,
        start: PhysAddr,
        permissions: Permissions,
    ) -> bool {
        let offset = (start.get() | iova) & slot_mask(level);
        if offset != 0 || start.get() > low_bits(F::ADDRESS_BITS) {
            return false;
        }
        if !self.has_near(frames, level, Span { start: iova, last: iova }) {
            return false;
        }
        let Some((used, slot)) = self.near.slot(frames, level, iova) else { return false };
        if slot.load(Ordering::Relaxed) & F::PRESENT != 0 {
            return false;
        }
        let word = self.format.leaf(level, shift(level), start, permissions);
        slot.store(word | F::START | F::END, Ordering::Release);
        used.live += 1;
        flush_entry(frames, self.format, used, index(level, iova));
        true
    }

    /// Unmaps a range as [`unmap`](Self::unmap) does, if that is whole pages of one table, and others stay in it: units must be
    /// made to forget just the range, of which only entries of pages have changed. Else nothing has changed.
    #[inline(always)]
    pub fn unmap_at_hand(&mut self, frames: &impl TableFrames, iova: Iova, bytes: u64) -> bool {
        match bytes {
            PAGE_SIZE => self.remove_entry(frames, 0, iova.get()),
            LARGE_PAGE => self.remove_entry(frames, 1, iova.get()),
            _ => self.remove_near(frames, iova, bytes),
        }
    }

    /// Removes whole pages of a table of the lowest level.
    #[inline(never)]
    fn remove_near(&mut self, frames: &impl TableFrames, iova: Iova, bytes: u64) -> bool {
        let Some(span) = Span::of(iova, bytes) else { return false };
        if !self.has_near(frames, 0, span) {
            return false;
        }
        let Some(used) = self.near.get_mut(0, span.start, span.last) else { return false };
        let Ok(node) = Node::new(frames, self.format, used.frame, 0) else { return false };
        clear_some(frames, &node, used, span)
    }

    /// Removes a page that is in a table with others.
    #[inline(always)]
    fn remove_entry(&mut self, frames: &impl TableFrames, level: u8, iova: u64) -> bool {
        let is_start = iova & slot_mask(level) == 0;
        if !is_start || !self.has_near(frames, level, Span { start: iova, last: iova }) {
            return false;
        }
        let Some((used, slot)) = self.near.slot(frames, level, iova) else { return false };
        let entry = self.format.decode(level, slot.load(Ordering::Relaxed));
        let is_page = matches!(entry, Entry::Leaf { order, .. } if order == shift(level));
        // The last one goes with the table.
        if !is_page || used.live == 1 {
            return false;
        }
        slot.store(0, Ordering::Release);
        used.live = used.live.wrapping_sub(1);
        flush_entry(frames, self.format, used, index(level, iova));
        true
    }
}

/// Has an entry that was stored written back, for a unit that does not snoop.
#[inline(always)]
fn flush_entry(frames: &impl TableFrames, format: impl Format, used: &Used, slot: usize) {
    if !format.is_coherent() {
        frames.flush_entries(used.frame, slot..slot + 1);
    }
}
