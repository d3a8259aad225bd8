//! How pages are written into one table. Nothing is counted here.

use core::sync::atomic::{AtomicU64, Ordering};

use dma_types::{Iova, PAGE_SIZE, PhysAddr};

use super::error::MapError;
use super::format::{Format, PAGE_SHIFT, Permissions, index, shift, slot_mask};
use super::node::{Node, each};
use super::page_table::Span;
use super::pieces::{Batch, Pieces};
use crate::platform::{Segment, TableFrames};

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

/// Enters pages in a table of their level, if all the entries are empty: so many.
pub(super) fn fill<F: Format>(
    frames: &impl TableFrames,
    node: &Node<'_, F>,
    batch: &Batch,
    span: Span,
    permissions: Permissions,
) -> Result<usize, MapError> {
    let slots = node.slots(index(node.level, batch.iova), batch.slots());
    if let Some(iova) = occupied::<F>(node.level, slots, batch.iova) {
        return Err(MapError::Occupied(iova));
    }
    Ok(put(frames, node, batch, span, permissions))
}

/// Writes a batch of a mapping at these addresses into its table: so many entries.
pub(super) fn put<F: Format>(
    frames: &impl TableFrames,
    node: &Node<'_, F>,
    batch: &Batch,
    span: Span,
    permissions: Permissions,
) -> usize {
    let first = index(batch.level, batch.iova);
    let slots = node.slots(first, batch.slots());
    store(node, batch, slots, permissions);
    mark(node, batch, slots, span);
    node.flush(frames, first, slots.len());
    slots.len()
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
    let Batch { start, order, level, .. } = *batch;
    let word = node.format.leaf(level, order, PhysAddr::new(start), permissions);
    // The address stands at its own place in the word.
    let step = 1 << order;
    match order - shift(level) {
        0 => store_each(slots, word, step),
        1 => store_alike(slots.as_chunks::<2>().0, word, step),
        2 => store_alike(slots.as_chunks::<4>().0, word, step),
        longer => store_alike(slots.chunks_exact(1 << longer), word, step),
    }
}

/// Writes pages that each fill an entry.
#[inline(always)]
fn store_each(slots: &[AtomicU64], mut word: u64, step: u64) {
    each(slots, |slot| {
        slot.store(word, Ordering::Release);
        word = word.wrapping_add(step);
    });
}

/// Writes pages that each fill several entries alike.
#[inline(always)]
fn store_alike<'a>(
    pages: impl IntoIterator<Item = impl AsRef<[AtomicU64]> + 'a>,
    mut word: u64,
    step: u64,
) {
    for page in pages {
        each(page.as_ref(), |slot| slot.store(word, Ordering::Release));
        word = word.wrapping_add(step);
    }
}

/// Enters memory in a table of level 0, if all the entries are empty: so many.
#[inline]
pub(super) fn fill_small<F: Format>(
    frames: &impl TableFrames,
    node: &Node<'_, F>,
    span: Span,
    memory: &[Segment],
    permissions: Permissions,
) -> Result<usize, MapError> {
    let first = index(0, span.start);
    let count = (((span.last - span.start) >> PAGE_SHIFT) + 1) as usize;
    let slots = node.slots(first, count);
    if let Some(iova) = occupied::<F>(0, slots, span.start) {
        return Err(MapError::Occupied(iova));
    }
    write_small(node, span, memory, permissions);
    node.flush(frames, first, count);
    Ok(count)
}

/// Writes a mapping at these addresses into a table of level 0.
#[inline]
pub(super) fn write_small<F: Format>(
    node: &Node<'_, F>,
    span: Span,
    memory: &[Segment],
    permissions: Permissions,
) {
    if node.format.page_sizes() & slot_mask(1) == PAGE_SIZE {
        let (first, last) = (index(0, span.start), index(0, span.last));
        let slots = node.slots(first, last + 1 - first);
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
}

/// Writes memory into the entries that it fills, by 4 KiB pages.
#[inline]
fn store_small<F: Format>(
    node: &Node<'_, F>,
    mut slots: &[AtomicU64],
    memory: &[Segment],
    permissions: Permissions,
) {
    // The address stands at its own place in the word.
    let empty = node.format.leaf(0, PAGE_SHIFT, PhysAddr::new(0), permissions);
    for segment in memory {
        let word = empty | segment.start.get();
        if segment.bytes == PAGE_SIZE {
            let Some((slot, later)) = slots.split_first() else { break };
            slots = later;
            slot.store(word, Ordering::Release);
            continue;
        }
        let pages = (segment.bytes >> PAGE_SHIFT) as usize;
        let Some((now, later)) = slots.split_at_checked(pages) else { break };
        slots = later;
        store_each(now, word, PAGE_SIZE);
    }
}
