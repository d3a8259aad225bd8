//! What is left of a large page of which a part is removed.

use core::sync::atomic::Ordering;

use dma_types::PhysAddr;

use super::error::UnmapError;
use super::format::{Format, Permissions, low_bits, shift, slot_mask};
use super::node::Node;
use super::page_table::Span;
use super::supply::Supply;
use crate::platform::TableFrames;

/// A page in a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) iova: u64,
    start: u64,
    order: u32,
    permissions: Permissions,
}

impl Page {
    /// The page that an address is in.
    pub(super) fn at(at: u64, start: PhysAddr, order: u32, permissions: Permissions) -> Self {
        Self { iova: at & !low_bits(order), start: start.get(), order, permissions }
    }

    /// Its last address.
    pub(super) fn last(&self) -> u64 {
        self.iova | low_bits(self.order)
    }

    /// The addresses of each entry that it fills in a table of this level.
    pub(super) fn slots(&self, level: u8) -> impl Iterator<Item = Span> + use<> {
        parts(Span { start: self.iova, last: self.last() }, level)
    }
}

/// The addresses of each entry in a table of this level, of all that go through a whole number of them.
fn parts(whole: Span, level: u8) -> impl Iterator<Item = Span> + use<> {
    let count = ((whole.last - whole.start) >> shift(level)) + 1;
    (0..count).map(move |part| {
        let start = whole.start + (part << shift(level));
        Span { start, last: start | slot_mask(level) }
    })
}

/// What becomes of one entry's part of a page.
enum Fate {
    Removed,
    /// It stays, as a page.
    Kept,
    /// Some of it stays, or no page is just as long.
    TakenApart,
}

fn fate(format: &impl Format, level: u8, slot: Span, removed: Span) -> Fate {
    if removed.start <= slot.start && slot.last <= removed.last {
        Fate::Removed
    } else if slot.last < removed.start || removed.last < slot.start {
        let has_pages = format.page_sizes() & 1 << shift(level) != 0;
        if has_pages { Fate::Kept } else { Fate::TakenApart }
    } else {
        Fate::TakenApart
    }
}

/// How many tables it takes to take one entry's part of a page apart.
pub(super) fn cost(format: &impl Format, level: u8, slot: Span, removed: Span) -> usize {
    match fate(format, level, slot, removed) {
        Fate::TakenApart if level > 0 => {
            1 + parts(slot, level - 1)
                .map(|part| cost(format, level - 1, part, removed))
                .sum::<usize>()
        }
        _ => 0,
    }
}

/// The word for what is left of one entry's part of a page. Tables that it takes are whole when it is known.
pub(super) fn rest<F: Format>(
    frames: &impl TableFrames,
    format: &F,
    level: u8,
    page: &Page,
    slot: Span,
    removed: Span,
    supply: &mut Supply,
) -> Result<u64, UnmapError> {
    let start = PhysAddr::new(page.start + (slot.start - page.iova));
    match fate(format, level, slot, removed) {
        Fate::Removed => Ok(0),
        Fate::TakenApart if level > 0 => {
            let new = Node::new(frames, *format, supply.take()?, level - 1)?;
            let mut live = 0;
            for (word, part) in new.words.iter().zip(parts(slot, new.level)) {
                let left = rest(frames, format, new.level, page, part, removed, supply)?;
                word.store(left, Ordering::Release);
                live += usize::from(left & F::PRESENT != 0);
            }
            new.set_live(live);
            new.flush(frames, 0, new.words.len());
            Ok(format.table(level, new.frame, new.level))
        }
        Fate::Kept | Fate::TakenApart => {
            Ok(format.leaf(level, shift(level), start, page.permissions))
        }
    }
}
