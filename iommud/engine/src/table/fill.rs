//! How pages are written into one table.

use core::sync::atomic::{AtomicU64, Ordering};

use dma_types::{Iova, PAGE_SIZE, PhysAddr};

use super::error::MapError;
use super::format::{Format, PAGE_SHIFT, Permissions, index, shift, slot_mask};
use super::node::{Node, each};
use super::page_table::Span;
use super::pieces::{Batch, Pieces};
use crate::platform::{Segment, TableFrames};

/// Enters one page in a table of its level, if all the entries are empty.
#[inline(always)]
pub(super) fn fill_page<F: Format>(
    frames: &impl TableFrames,
    node: &Node<'_, F>,
    order: u32,
    iova: u64,
    start: PhysAddr,
    permissions: Permissions,
) -> Result<(), MapError> {
    let first = index(node.level, iova);
    let slots = node.slots(first, 1 << (order - shift(node.level)));
    if let Some(iova) = occupied::<F>(node.level, slots, iova) {
        return Err(MapError::Occupied(iova));
    }
    let live = node.live();
    let word = node.format.leaf(node.level, order, start, permissions);
    if let [first, _, ..] = slots {
        each(slots, |slot| slot.store(word, Ordering::Release));
        first.store(word | F::START | F::END, Ordering::Release);
    } else {
        each(slots, |slot| slot.store(word | F::START | F::END, Ordering::Release));
    }
    node.set_live(live + slots.len());
    node.flush(frames, first, slots.len());
    Ok(())
}

/// The first address where something is, if anything is in the entries of a table from `iova` on.
#[inline]
pub(super) fn occupied<F: Format>(level: u8, slots: &[AtomicU64], iova: u64) -> Option<Iova> {
    let mut seen = 0;
    each(slots, |slot| seen |= slot.load(Ordering::Relaxed));
    if seen & F::PRESENT == 0 { None } else { first_of::<F>(level, slots, iova) }
}

#[cold]
fn first_of<F: Format>(level: u8, slots: &[AtomicU64], iova: u64) -> Option<Iova> {
    let in_use = |slot: &AtomicU64| slot.load(Ordering::Relaxed) & F::PRESENT != 0;
    let slot = slots.iter().position(in_use)?;
    Some(Iova::new(iova + ((slot as u64) << shift(level))))
}

/// Writes a batch of a mapping at these addresses into its table.
pub(super) fn put<F: Format>(
    frames: &impl TableFrames,
    node: &Node<'_, F>,
    batch: &Batch,
    span: Span,
    permissions: Permissions,
) {
    let first = index(batch.level, batch.iova);
    let slots = node.slots(first, batch.slots());
    let live = node.live();
    store(node, batch, slots, permissions);
    mark(node, batch, slots, span);
    node.set_live(live + slots.len());
    node.flush(frames, first, slots.len());
}

/// Marks where a mapping at these addresses starts and ends, if that is in a batch that has been written.
#[inline]
fn mark<F: Format>(node: &Node<'_, F>, batch: &Batch, slots: &[AtomicU64], span: Span) {
    let page = 1 << (batch.order - shift(node.level));
    if batch.iova == span.start {
        set(slots.first(), F::START);
    }
    if batch.iova + (batch.bytes - 1) == span.last {
        set(slots.len().checked_sub(page).and_then(|last| slots.get(last)), F::END);
    }
}

/// Sets a bit of an entry.
#[inline]
fn set(slot: Option<&AtomicU64>, bit: u64) {
    if let Some(slot) = slot {
        slot.store(slot.load(Ordering::Relaxed) | bit, Ordering::Release);
    }
}

/// Writes a batch into the entries that it fills.
#[inline]
fn store<F: Format>(
    node: &Node<'_, F>,
    batch: &Batch,
    slots: &[AtomicU64],
    permissions: Permissions,
) {
    let Batch { start, bytes, order, level, .. } = *batch;
    let mut word = node.format.leaf(level, order, PhysAddr::new(start), permissions);
    // The address stands at its own place in the word.
    let step = 1 << order;
    if order == shift(level) {
        each(slots, |slot| {
            slot.store(word, Ordering::Release);
            word = word.wrapping_add(step);
        });
    } else {
        // Pages that fill several entries alike.
        for page in slots.chunks(slots.len() / (bytes >> order) as usize) {
            each(page, |slot| slot.store(word, Ordering::Release));
            word = word.wrapping_add(step);
        }
    }
}

/// Enters memory in a table of level 0, if all the entries are empty.
#[inline]
pub(super) fn fill_small<F: Format>(
    frames: &impl TableFrames,
    node: &Node<'_, F>,
    span: Span,
    memory: &[Segment],
    permissions: Permissions,
) -> Result<(), MapError> {
    let first = index(0, span.start);
    let count = (((span.last - span.start) >> PAGE_SHIFT) + 1) as usize;
    let slots = node.slots(first, count);
    if let Some(iova) = occupied::<F>(0, slots, span.start) {
        return Err(MapError::Occupied(iova));
    }
    let live = node.live();
    if node.format.page_sizes() & slot_mask(1) == 1 << PAGE_SHIFT {
        store_small(node, slots, memory, permissions);
        set(slots.first(), F::START);
        set(slots.last(), F::END);
    } else {
        let mut pieces = Pieces::new(span.start, memory);
        while let Some(batch) = pieces.next(node.page_sizes()) {
            let slots = node.slots(index(0, batch.iova), batch.slots());
            store(node, &batch, slots, permissions);
            mark(node, &batch, slots, span);
        }
    }
    node.set_live(live + count);
    node.flush(frames, first, count);
    Ok(())
}

/// Writes memory into the entries that it fills, by 4 KiB pages.
#[inline]
fn store_small<F: Format>(
    node: &Node<'_, F>,
    mut slots: &[AtomicU64],
    memory: &[Segment],
    permissions: Permissions,
) {
    for segment in memory {
        let pages = (segment.bytes >> PAGE_SHIFT) as usize;
        let Some((now, later)) = slots.split_at_checked(pages) else { break };
        slots = later;
        let mut word = node.format.leaf(0, PAGE_SHIFT, segment.start, permissions);
        each(now, |slot| {
            slot.store(word, Ordering::Release);
            // The address stands at its own place in the word.
            word = word.wrapping_add(PAGE_SIZE);
        });
    }
}

/// Enters pages in a table of their level, if all the entries are empty.
pub(super) fn fill<F: Format>(
    frames: &impl TableFrames,
    node: &Node<'_, F>,
    batch: &Batch,
    span: Span,
    permissions: Permissions,
) -> Result<(), MapError> {
    let slots = node.slots(index(node.level, batch.iova), batch.slots());
    if let Some(iova) = occupied::<F>(node.level, slots, batch.iova) {
        return Err(MapError::Occupied(iova));
    }
    put(frames, node, batch, span, permissions);
    Ok(())
}
