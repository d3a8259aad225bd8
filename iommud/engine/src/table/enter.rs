//! How a range is entered that takes more than one table, or new ones: looked at first, then written.

use dma_types::Iova;

use super::error::{Foreign, MapError};
use super::fill::{occupied, put};
use super::format::{Entry, Format, Permissions, index, slot_mask, table_mask};
use super::node::{Node, holds};
use super::page_table::Span;
use super::pieces::{Batch, Pieces};
use super::supply::Supply;
use crate::platform::TableFrames;

/// Where a batch of pages goes.
pub(super) enum Place<'a, F> {
    /// In this table.
    Table(Node<'a, F>),
    /// In a table that is missing: this is the lowest there is on the way.
    Missing(Node<'a, F>),
    /// Where something is mapped.
    Occupied,
}

/// Finds where a page goes that is to be in a table of this level.
#[inline]
pub(super) fn find<'a, F: Format>(
    frames: &'a impl TableFrames,
    root: Node<'a, F>,
    iova: u64,
    level: u8,
) -> Result<Place<'a, F>, Foreign> {
    let mut node = root;
    while node.level > level {
        match node.entry(iova) {
            Entry::Empty => return Ok(Place::Missing(node)),
            Entry::Leaf { .. } => return Ok(Place::Occupied),
            Entry::Table { frame, level: lower, .. } => {
                let below = node.below(frames, frame, lower)?;
                if !holds::<F>(node.level, lower, iova) {
                    return Ok(Place::Missing(node));
                }
                if lower < level {
                    // No table is empty, and all of this one is where the page would be.
                    return Ok(Place::Occupied);
                }
                node = below;
            }
        }
    }
    Ok(Place::Table(node))
}

/// The look: whether a range can be entered, and how many tables that takes.
pub(super) struct Plan {
    last: u64,
    /// By level, the start of what the last table spans that will be made.
    made: [Option<u64>; 8],
    /// How many tables will be made.
    pub(super) needed: usize,
}

impl Plan {
    /// For a range that ends with this address.
    pub(super) fn new(last: u64) -> Self {
        Self { last, made: [None; 8], needed: 0 }
    }

    /// Looks at all of a range.
    pub(super) fn check<'a, F: Format>(
        &mut self,
        frames: &'a impl TableFrames,
        root: Node<'a, F>,
        mut pieces: Pieces<'_>,
    ) -> Result<(), MapError> {
        let mut open: Option<(u64, Place<'a, F>)> = None;
        let sizes = root.page_sizes();
        while let Some(batch) = pieces.next(sizes) {
            let base = batch.iova & !table_mask(batch.level);
            let place = match open.take() {
                Some((at, Place::Table(node))) if at == base && node.level == batch.level => {
                    Place::Table(node)
                }
                _ => find(frames, root, batch.iova, batch.level)?,
            };
            match &place {
                Place::Table(node) => {
                    let slots = node.slots(index(node.level, batch.iova), batch.slots());
                    if let Some(iova) = occupied::<F>(node.level, slots, batch.iova) {
                        return Err(MapError::Occupied(iova));
                    }
                }
                Place::Missing(node) => self.make(node, &batch),
                Place::Occupied => return Err(MapError::Occupied(Iova::new(batch.iova))),
            }
            open = Some((base, place));
        }
        Ok(())
    }

    /// Counts the tables that are missing below a node.
    fn make<F: Format>(&mut self, node: &Node<'_, F>, batch: &Batch) {
        let mut above = node.level;
        let mut level = next_level(node, batch, self.last);
        loop {
            let base = batch.iova & !table_mask(level);
            if let Some(made) = self.made.get_mut(usize::from(level))
                && *made != Some(base)
            {
                *made = Some(base);
                self.needed += 1;
            }
            if level <= batch.level {
                return;
            }
            above = level.min(above);
            level = level_below::<F>(above, batch, self.last);
        }
    }
}

/// Enters a range that was looked at, making tables of a supply.
pub(super) fn write<F: Format>(
    frames: &impl TableFrames,
    root: Node<'_, F>,
    mut pieces: Pieces<'_>,
    span: Span,
    permissions: Permissions,
    supply: &mut Supply,
) -> Result<(), MapError> {
    let mut open: Option<(u64, Node<'_, F>)> = None;
    let sizes = root.page_sizes();
    while let Some(batch) = pieces.next(sizes) {
        let base = batch.iova & !table_mask(batch.level);
        let node = match open {
            Some((at, node)) if at == base && node.level == batch.level => node,
            _ => reach(frames, root, &batch, span.last, supply)?,
        };
        let live = node.live();
        node.set_live(live + put(frames, &node, &batch, span, permissions));
        open = Some((base, node));
    }
    Ok(())
}

/// Finds the table where a batch goes, and makes those that are missing.
///
/// A table is zeroes, and visible as such, before an entry points to it.
fn reach<'a, F: Format>(
    frames: &'a impl TableFrames,
    root: Node<'a, F>,
    batch: &Batch,
    last: u64,
    supply: &mut Supply,
) -> Result<Node<'a, F>, MapError> {
    let mut node = root;
    while node.level > batch.level {
        let entry = node.entry(batch.iova);
        if let Entry::Table { frame, level, .. } = entry
            && holds::<F>(node.level, level, batch.iova)
        {
            node = node.below(frames, frame, level)?;
            continue;
        }
        let level = next_level(&node, batch, last);
        let new = Node::new(frames, node.format, supply.take()?, level)?;
        let mut added = 1;
        match entry {
            Entry::Empty => {}
            Entry::Leaf { .. } => return Err(MapError::Occupied(Iova::new(batch.iova))),
            // The table below, which does not reach so far, goes under the new one.
            Entry::Table { frame, level: old, .. } => {
                new.store(frames, 0, node.format.table(level, frame, old), 1);
                added = 0;
            }
        }
        node.store(frames, batch.iova, node.format.table(node.level, new.frame, level), added);
        node = new;
    }
    Ok(node)
}

/// The level of the table to be made next on the way to a batch.
fn next_level<F: Format>(node: &Node<'_, F>, batch: &Batch, last: u64) -> u8 {
    match node.entry(batch.iova) {
        // It goes over the old one, no higher than it must to hold both.
        Entry::Table { level: old, .. } if F::MAKES_SKIPS => (old + 1..node.level)
            .find(|level| holds::<F>(node.level, *level, batch.iova))
            .unwrap_or(node.level.saturating_sub(1)),
        _ => level_below::<F>(node.level, batch, last),
    }
}

/// The level of the table to be made under an empty entry of a table of level `above`: the lowest that
/// holds all of the range that goes through the entry.
fn level_below<F: Format>(above: u8, batch: &Batch, last: u64) -> u8 {
    let next = above.saturating_sub(1);
    if !F::MAKES_SKIPS {
        return next;
    }
    let last = last.min(batch.iova | slot_mask(above));
    (batch.level..next).find(|level| holds::<F>(above, *level, last)).unwrap_or(next)
}
