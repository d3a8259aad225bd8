//! How a range is removed: looked at first, then cleared.

use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicU64, Ordering};

use dma_types::{Iova, PAGE_SIZE, PhysAddr};

use super::error::{Foreign, UnmapError};
use super::format::{Entry, Format, index, low_bits, shift, slot_mask};
use super::near::{Kept, Used};
use super::node::{Node, each, holds};
use super::page_table::{PageTable, Span, Unmapped};
use super::split::{Page, cost, rest};
use super::supply::Supply;
use crate::platform::TableFrames;
use crate::unit::Touched;

impl<F: Format> PageTable<F> {
    /// Removes whole pages of one table, if it is of one of the lowest levels. If it has no others it is unlinked with them, or
    /// kept.
    #[inline]
    pub(super) fn clear(
        &mut self,
        frames: &impl TableFrames,
        node: &Node<'_, F>,
        span: Span,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Option<Touched>, UnmapError> {
        let Some(used) = self.near.of(frames, node, span.start) else { return Ok(None) };
        let first = index(node.level, span.start);
        let slots = node.slots(first, index(node.level, span.last) + 1 - first);
        let is_last = used.live <= slots.len() && node.frame != self.root;
        if is_last && !self.near.keep(frames, self.format, node.level) {
            self.unlink(frames, node.frame, span.start, retired)?;
            return Ok(Some(Touched::Tables));
        }
        let Some(used) = self.near.of(frames, node, span.start) else { return Ok(None) };
        each(slots, |slot| slot.store(0, Ordering::Release));
        used.live = used.live.saturating_sub(slots.len());
        node.flush(frames, first, slots.len());
        Ok(Some(Touched::Leaves))
    }

    /// Unlinks the table that is kept although it is empty, and those above that have nothing else: what has changed, if there
    /// was one.
    ///
    /// # Errors
    ///
    /// [`UnmapError::Foreign`], with nothing changed.
    pub fn give_up_empty(
        &mut self,
        frames: &impl TableFrames,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Option<Unmapped>, UnmapError> {
        let Some(kept) = self.near.empty(frames, self.format) else { return Ok(None) };
        self.unlink(frames, kept.frame, kept.base, retired)?;
        self.near.keep_none();
        let start = Iova::new(kept.base);
        Ok(Some(Unmapped { start, bytes: PAGE_SIZE, touched: Touched::Tables }))
    }

    /// Unlinks a table on the way to an address, as it is, and those above that have nothing else.
    #[cold]
    fn unlink(
        &mut self,
        frames: &impl TableFrames,
        table: PhysAddr,
        address: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<(), UnmapError> {
        self.near.settle(frames, self.format);
        let before = retired.len();
        let kept = self.last_kept(frames, table, address, retired);
        if kept.is_err() {
            retired.truncate(before);
        }
        kept?.store(frames, address, 0, usize::MAX);
        retired.append(&mut self.outgrown);
        Ok(())
    }

    /// The lowest table on the way to another that holds more than the way to it, or the root. Those below are
    /// added to `retired`.
    fn last_kept<'a>(
        &self,
        frames: &'a impl TableFrames,
        table: PhysAddr,
        address: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Node<'a, F>, UnmapError> {
        let before = retired.len();
        let mut node = self.root_node(frames)?;
        let mut kept = node;
        while node.frame != table {
            let Entry::Table { frame, level, .. } = node.entry(address) else {
                return Err(Foreign(table).into());
            };
            if node.live() != 1 {
                kept = node;
                retired.truncate(before);
            }
            node = node.below(frames, frame, level)?;
            retired.push(frame);
        }
        Ok(kept)
    }
}

/// Removes a range of a table of the lowest level, if it is whole pages and there are others: whether it was so.
#[inline]
pub(super) fn clear_some<F: Format>(
    frames: &impl TableFrames,
    node: &Node<'_, F>,
    used: &mut Used,
    span: Span,
) -> bool {
    let first = index(0, span.start);
    let slots = node.slots(first, index(0, span.last) + 1 - first);
    if used.live <= slots.len() || !are_present::<F>(slots) || !is_whole_pages(node, span) {
        return false;
    }
    each(slots, |slot| slot.store(0, Ordering::Release));
    used.live -= slots.len();
    node.flush(frames, first, slots.len());
    true
}

/// The table that a range is in, if it is whole pages in one.
pub(super) fn pages_of_one_table<'a, F: Format>(
    frames: &'a impl TableFrames,
    root: Node<'a, F>,
    Span { start, last }: Span,
) -> Result<Option<Node<'a, F>>, UnmapError> {
    let mut node = root;
    let order = loop {
        match node.entry(start) {
            Entry::Table { frame, level, .. } if holds::<F>(node.level, level, start) => {
                node = node.below(frames, frame, level)?;
            }
            Entry::Empty | Entry::Table { .. } => return Err(not_mapped(start)),
            Entry::Leaf { order, .. } => break order,
        }
    };
    if start & low_bits(order) != 0 || node.base(start) != node.base(last) {
        return Ok(None);
    }
    let first = index(node.level, start);
    let slots = node.slots(first, index(node.level, last) + 1 - first);
    let are_pages = start | low_bits(order) == last || are_pages(&node, slots, last);
    Ok(are_pages.then_some(node))
}

/// Removes a range that is more than pages of one table, or less than a page.
pub(super) struct Remove<F> {
    format: F,
    span: Span,
    /// The range with all of the large pages that it took a part of.
    widened: Span,
    touched: Touched,
    /// Whether a table may stay that is empty then,
    may_keep: bool,
    /// and which does.
    kept: Option<Kept>,
}

impl<F: Format> Remove<F> {
    pub(super) fn new(format: F, span: Span, may_keep: bool) -> Self {
        Self { format, span, widened: span, touched: Touched::Leaves, may_keep, kept: None }
    }

    /// Removes the range, in two walks: one that looks, one that clears.
    pub(super) fn remove(
        mut self,
        frames: &mut impl TableFrames,
        table: &PageTable<F>,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<(Unmapped, Option<Kept>), UnmapError> {
        let needed = self.check(frames, table.root_node(frames)?, self.span)?;
        let mut supply = Supply::allocate(frames, needed, self.format.is_coherent())?;
        let root = table.root_node(frames)?;
        // The root stays, however empty it is.
        let cleared = self.clear(frames, root, self.span, &mut supply, retired);
        supply.give_back(frames);
        cleared?;
        Ok((self.widened.unmapped(self.touched), self.kept))
    }

    /// Whether all of a part of the range is mapped, and how many tables it takes to take pages apart.
    fn check(
        &self,
        frames: &impl TableFrames,
        node: Node<'_, F>,
        Span { start, last }: Span,
    ) -> Result<usize, UnmapError> {
        if node.level == 0 {
            let first = index(0, start);
            let slots = node.slots(first, index(0, last) + 1 - first);
            if are_present::<F>(slots) {
                return Ok(0);
            }
            let empty = slots.iter().take_while(|slot| is_present::<F>(slot)).count();
            return Err(not_mapped(start + ((empty as u64) << shift(0))));
        }
        let mut needed = 0;
        let mut at = start;
        loop {
            let part = last.min(node.slot_last(at));
            let done = match node.entry(at) {
                Entry::Empty => return Err(not_mapped(at)),
                Entry::Table { frame, level, .. } => {
                    for edge in [at, part] {
                        if !holds::<F>(node.level, level, edge) {
                            return Err(not_mapped(edge));
                        }
                    }
                    let below = node.below(frames, frame, level)?;
                    needed += self.check(frames, below, Span { start: at, last: part })?;
                    part
                }
                Entry::Leaf { start, order, permissions } => {
                    let page = Page::at(at, start, order, permissions);
                    for slot in page.slots(node.level) {
                        needed += cost(&self.format, node.level, slot, self.span);
                    }
                    page.last().min(last)
                }
            };
            if done >= last {
                return Ok(needed);
            }
            at = done + 1;
        }
    }

    /// Removes a part of the range from a table; whether the table is empty then.
    fn clear(
        &mut self,
        frames: &impl TableFrames,
        node: Node<'_, F>,
        span: Span,
        supply: &mut Supply,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<bool, UnmapError> {
        if node.level == 0 && is_whole_pages(&node, span) {
            return Ok(clear_pages(frames, &node, span));
        }
        let before = node.live();
        let mut removed = 0;
        let mut at = span.start;
        loop {
            let slot_last = node.slot_last(at);
            let part = span.last.min(slot_last);
            let done = match node.entry(at) {
                Entry::Empty => return Err(not_mapped(at)),
                Entry::Table { frame, level, .. } => {
                    let below = node.below(frames, frame, level)?;
                    let whole = part - at == slot_mask(node.level);
                    let part_span = Span { start: at, last: part };
                    let is_empty =
                        whole || self.clear(frames, below, part_span, supply, retired)?;
                    if is_empty && (whole || !self.keep(&below, at)) {
                        removed += 1;
                        self.touched = Touched::Tables;
                        put(frames, &node, at, 0);
                        // What is below it goes as it is.
                        if whole {
                            below.collect(frames, retired);
                        } else {
                            retired.push(frame);
                        }
                    }
                    part
                }
                Entry::Leaf { start, order, permissions } => {
                    let page = Page::at(at, start, order, permissions);
                    removed += self.clear_page(frames, &node, &page, supply)?;
                    page.last().min(span.last)
                }
            };
            if done >= span.last {
                break;
            }
            at = done + 1;
        }
        let live = before.wrapping_sub(removed) % 512;
        node.set_live(live);
        // One from which nothing was removed can be full.
        Ok(removed > 0 && live == 0)
    }

    /// Has a table stay that is empty now, if one may.
    fn keep(&mut self, node: &Node<'_, F>, address: u64) -> bool {
        let may_keep = mem::take(&mut self.may_keep);
        if may_keep {
            self.kept = Some(Kept::new(node, address));
        }
        may_keep
    }

    /// Removes a page, or the part of it that is in the range; how many entries are empty then.
    ///
    /// What is left of it stays mapped all the time: each entry changes with one store, from a part of the
    /// large page to the same memory by smaller ones.
    fn clear_page(
        &mut self,
        frames: &impl TableFrames,
        node: &Node<'_, F>,
        page: &Page,
        supply: &mut Supply,
    ) -> Result<usize, UnmapError> {
        let mut removed = 0;
        for slot in page.slots(node.level) {
            let word = rest(frames, &self.format, node.level, page, slot, self.span, supply)?;
            if word & F::PRESENT == 0 {
                removed += 1;
            } else if matches!(self.format.decode(node.level, word), Entry::Table { .. }) {
                self.touched = Touched::Tables;
            }
            put(frames, node, slot.start, word);
        }
        if page.iova < self.span.start || page.last() > self.span.last {
            self.widened.start = self.widened.start.min(page.iova);
            self.widened.last = self.widened.last.max(page.last());
        }
        Ok(removed)
    }
}

/// Whether a range of a table of level 0, all of which is mapped, begins and ends as its pages do.
#[inline]
fn is_whole_pages<F: Format>(node: &Node<'_, F>, Span { start, last }: Span) -> bool {
    let ends = |address: u64, inside: u64| match node.entry(address) {
        Entry::Leaf { order, .. } => inside & low_bits(order) == 0,
        Entry::Empty | Entry::Table { .. } => false,
    };
    ends(start, start) && ends(last, !last)
}

/// Removes whole pages of a table of level 0; whether it is empty then.
fn clear_pages<F: Format>(frames: &impl TableFrames, node: &Node<'_, F>, span: Span) -> bool {
    let first = index(0, span.start);
    let count = index(0, span.last) + 1 - first;
    let live = node.live().wrapping_sub(count) % 512;
    each(node.slots(first, count), |slot| slot.store(0, Ordering::Release));
    node.set_live(live);
    node.flush(frames, first, count);
    live == 0
}

/// Whether all entries are pages, of which the last ends with this address.
#[inline]
fn are_pages<F: Format>(node: &Node<'_, F>, slots: &[AtomicU64], last: u64) -> bool {
    let ends = match node.entry(last) {
        Entry::Leaf { order, .. } => !last & low_bits(order) == 0,
        _ => false,
    };
    let is_page = |slot: &AtomicU64| {
        let word = slot.load(Ordering::Relaxed);
        matches!(node.format.decode(node.level, word), Entry::Leaf { .. })
    };
    // In the lowest level there is nothing else.
    ends && if node.level == 0 { are_present::<F>(slots) } else { slots.iter().all(is_page) }
}

/// Whether all entries are present. Those of one mapping have a bit in common that says so, which is seen soonest.
#[inline]
fn are_present<F: Format>(slots: &[AtomicU64]) -> bool {
    let mut common = F::PRESENT;
    each(slots, |slot| common &= slot.load(Ordering::Relaxed));
    common != 0 || slots.iter().all(is_present::<F>)
}

fn is_present<F: Format>(slot: &AtomicU64) -> bool {
    slot.load(Ordering::Relaxed) & F::PRESENT != 0
}

/// Stores one entry, for which the table's count is brought up to date later.
fn put<F: Format>(frames: &impl TableFrames, node: &Node<'_, F>, address: u64, word: u64) {
    let slot = index(node.level, address);
    node.words[slot].store(word, Ordering::Release);
    node.flush(frames, slot, 1);
}

fn not_mapped(at: u64) -> UnmapError {
    UnmapError::NotMapped(Iova::new(at))
}
