//! One page table.

use alloc::vec::Vec;

use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};

use super::enter::{Place, Plan, find, write};
use super::error::{Foreign, MapError, UnmapError};
use super::fill::{fill, fill_page, fill_small};
use super::format::{
    Entry, Format, INDEX_BITS, PAGE_SHIFT, Permissions, index, low_bits, shift, table_mask,
};
use super::near::Near;
use super::node::{Node, holds};
use super::pieces::Pieces;
use super::remove::{Remove, pages_of_one_table};
use super::supply::Supply;
use crate::platform::{Segment, TableFrames};
use crate::unit::Touched;

/// A page table: its root, and the layout of its entries.
#[derive(Debug)]
pub struct PageTable<F> {
    pub(super) format: F,
    pub(super) root: PhysAddr,
    /// The level of the root.
    pub(super) top: u8,
    /// Former roots that were empty when the table grew. A unit may be told of the new one only later, so
    /// they are given to the caller with the next table that is retired.
    pub(super) outgrown: Vec<PhysAddr>,
    /// Never a table that is not linked.
    pub(super) near: Near,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address.
    pub phys: PhysAddr,
    /// What may be done there, on the whole way.
    pub access: Access,
    /// How long the page is that it is in.
    pub page_bytes: u64,
}

/// What an unmap changed: what units must be made to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// The range, and all of the large pages of which it took a part.
    pub start: Iova,
    /// Its length.
    pub bytes: u64,
    /// Whether only entries of pages changed.
    pub touched: Touched,
}

/// Addresses from the first to the last: both count, so that the range can end with the last there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) last: u64,
}

impl Span {
    /// Whether a table of level 0 spans as much.
    fn is_in_one_table(self) -> bool {
        (self.start ^ self.last) <= table_mask(0)
    }

    /// What to say of it when it has been unmapped.
    pub(super) fn unmapped(self, touched: Touched) -> Unmapped {
        let Self { start, last } = self;
        Unmapped { start: Iova::new(start), bytes: last - start + 1, touched }
    }
}

impl<F: Format> PageTable<F> {
    /// An empty table.
    ///
    /// # Errors
    ///
    /// [`MapError::OutOfFrames`].
    pub fn new(format: F, frames: &mut impl TableFrames) -> Result<Self, MapError> {
        let root = frames.alloc_frame().ok_or(MapError::OutOfFrames)?;
        if !format.is_coherent() {
            frames.flush_entries(root, 0..512);
        }
        let top = format.levels().saturating_sub(1);
        Ok(Self { format, root, top, outgrown: Vec::new(), near: Near::NONE })
    }

    /// Its root. It changes when the table [grows](Self::map).
    pub fn root(&self) -> PhysAddr {
        self.root
    }

    /// How many levels it has.
    pub fn levels(&self) -> u8 {
        self.top + 1
    }

    /// Maps physical memory from `iova` on. Pages are as large as addresses and lengths allow.
    ///
    /// [`root`](Self::root) and [`levels`](Self::levels) may be others afterwards, if the format's root can grow.
    /// What was mapped before is reached through either root, what is mapped now through the new one alone. Units
    /// must have been told of it before they are asked to forget what is unmapped next: a former root may
    /// be among what that retires.
    ///
    /// # Errors
    ///
    /// [`MapError`], with nothing changed.
    #[inline]
    pub fn map(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        access: Access,
    ) -> Result<Touched, MapError> {
        let permissions = access.into();
        if let [Segment { start, bytes }] = *memory {
            // Written twice, for what is asked for most is known to fill one entry.
            let entered = match bytes {
                PAGE_SIZE => self.enter_near(frames, PAGE_SHIFT, iova, start, permissions),
                _ => match self.order_of(bytes) {
                    Some(order) => self.enter_near(frames, order, iova, start, permissions),
                    None => None,
                },
            };
            if let Some(entered) = entered {
                entered?;
                return Ok(Touched::Leaves);
            }
        }
        let span = self.span_of(iova, memory)?;
        if let Some(node) = self.near_small(frames, span) {
            fill_small(frames, &node, span, memory, permissions)?;
            return Ok(Touched::Leaves);
        }
        self.map_from_root(frames, span, memory, permissions)
    }

    /// Maps a range: in one walk, if it is pages alike in a table that exists.
    #[inline(never)]
    fn map_from_root(
        &mut self,
        frames: &mut impl TableFrames,
        span: Span,
        memory: &[Segment],
        permissions: Permissions,
    ) -> Result<Touched, MapError> {
        let mut pieces = Pieces::new(span.start, memory);
        let root = self.root_node(frames)?;
        if span.last <= self.reach()
            && let Some(batch) = pieces.next(root.page_sizes())
        {
            let alone = batch.iova + (batch.bytes - 1) == span.last;
            let small = span.is_in_one_table() && batch.level == 0;
            if (alone || small)
                && let Place::Table(node) = find(frames, root, span.start, batch.level)?
            {
                if small {
                    fill_small(frames, &node, span, memory, permissions)?;
                } else {
                    fill(frames, &node, &batch, span, permissions)?;
                }
                self.near.note(&node, span.start);
                return Ok(Touched::Leaves);
            }
        }
        self.map_anywhere(frames, span, Pieces::new(span.start, memory), permissions)
    }

    /// The logarithm of a length, if pages are that long.
    #[inline]
    fn order_of(&self, bytes: u64) -> Option<u32> {
        let is_page = bytes.is_power_of_two() && bytes & self.format.page_sizes() != 0;
        is_page.then(|| bytes.trailing_zeros())
    }

    /// The table used last for pages of this order, if a page at an address is in it.
    #[inline(always)]
    fn near_page<'a>(
        &self,
        frames: &'a impl TableFrames,
        order: u32,
        iova: u64,
    ) -> Option<Node<'a, F>> {
        let level = ((order - PAGE_SHIFT) / INDEX_BITS) as u8;
        let frame = self.near.get(level, iova, iova)?;
        if iova & low_bits(order) == 0 {
            Node::new(frames, self.format, frame, level).ok()
        } else {
            None
        }
    }

    /// Enters a page in the table used last for such, if that is the right one.
    #[inline(always)]
    fn enter_near(
        &self,
        frames: &impl TableFrames,
        order: u32,
        iova: Iova,
        start: PhysAddr,
        permissions: Permissions,
    ) -> Option<Result<(), MapError>> {
        let is_start = start.get() & low_bits(order) == 0;
        if !is_start || start.get() > low_bits(F::ADDRESS_BITS) {
            return None;
        }
        let node = self.near_page(frames, order, iova.get())?;
        Some(fill_page(frames, &node, order, iova.get(), start, permissions))
    }

    /// Removes a page that is in the table used last for such.
    #[inline(always)]
    fn remove_near(
        &mut self,
        frames: &impl TableFrames,
        order: u32,
        iova: Iova,
        retired: &mut Vec<PhysAddr>,
    ) -> Option<Result<Touched, UnmapError>> {
        let node = self.near_page(frames, order, iova.get())?;
        match node.entry(iova.get()) {
            Entry::Leaf { order: found, .. } if found == order => {
                let count = 1 << (order - shift(node.level));
                Some(self.clear(frames, &node, iova.get(), count, retired))
            }
            _ => None,
        }
    }

    /// The table of level 0 used last, if it holds a range.
    #[inline]
    fn near_small<'a>(&self, frames: &'a impl TableFrames, span: Span) -> Option<Node<'a, F>> {
        let frame = self.near.get(0, span.start, span.last)?;
        Node::new(frames, self.format, frame, 0).ok()
    }

    /// The addresses that memory will be mapped at, if all is as it must be.
    #[inline]
    fn span_of(&self, iova: Iova, memory: &[Segment]) -> Result<Span, MapError> {
        let mut bytes = 0u64;
        let (mut low, mut high) = (iova.get(), 0);
        for segment in memory {
            let end = segment.start.checked_add(segment.bytes).ok_or(MapError::OutOfRange)?;
            low |= segment.start.get() | segment.bytes;
            // All bits, for a segment of nothing.
            high |= (end.get().wrapping_sub(1)) | segment.bytes.wrapping_sub(1);
            bytes = bytes.checked_add(segment.bytes).ok_or(MapError::OutOfRange)?;
        }
        if low % PAGE_SIZE != 0 {
            return Err(MapError::Misaligned);
        }
        if high > low_bits(F::ADDRESS_BITS) {
            let nothing = memory.iter().any(|segment| segment.bytes == 0);
            return Err(if nothing { MapError::Empty } else { MapError::OutOfRange });
        }
        let more = bytes.checked_sub(1).ok_or(MapError::Empty)?;
        let last = iova.checked_add(more).ok_or(MapError::OutOfRange)?;
        if last.get() > table_mask(self.format.max_levels().saturating_sub(1)) {
            return Err(MapError::OutOfRange);
        }
        Ok(Span { start: iova.get(), last: last.get() })
    }

    /// Maps a range in two walks: one that looks, one that writes.
    #[inline(never)]
    fn map_anywhere(
        &mut self,
        frames: &mut impl TableFrames,
        span: Span,
        pieces: Pieces<'_>,
        permissions: Permissions,
    ) -> Result<Touched, MapError> {
        let before = (self.root, self.top, self.outgrown.len());
        if span.last > self.reach() {
            self.grow(frames, span)?;
        }
        let mapped = self.map_in_two_walks(frames, span, pieces, permissions);
        let grown = self.root != before.0;
        if mapped.is_err() && grown {
            self.shrink(frames, before);
        }
        mapped.map(|touched| if grown { Touched::Tables } else { touched })
    }

    fn map_in_two_walks(
        &self,
        frames: &mut impl TableFrames,
        span: Span,
        pieces: Pieces<'_>,
        permissions: Permissions,
    ) -> Result<Touched, MapError> {
        let mut plan = Plan::new(span.last);
        plan.check(frames, self.root_node(frames)?, pieces.clone())?;
        let mut supply = Supply::allocate(frames, plan.needed, self.format.is_coherent())?;
        let root = self.root_node(frames)?;
        let written = write(frames, root, pieces, span, permissions, &mut supply);
        supply.give_back(frames);
        written?;
        Ok(if plan.needed > 0 { Touched::Tables } else { Touched::Leaves })
    }

    /// Unmaps a range, all of which must be mapped. Large pages of which it is a part are taken apart.
    ///
    /// Tables that are empty then are unlinked and added to `retired`. They must not be used again before
    /// every unit that could walk them has confirmed that it has forgotten the range (rule R2).
    ///
    /// # Errors
    ///
    /// [`UnmapError`], with nothing changed.
    #[inline]
    pub fn unmap(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Unmapped, UnmapError> {
        // Written twice, as when it was entered.
        let removed = match bytes {
            PAGE_SIZE => self.remove_near(frames, PAGE_SHIFT, iova, retired),
            _ => match self.order_of(bytes) {
                Some(order) => self.remove_near(frames, order, iova, retired),
                None => None,
            },
        };
        if let Some(removed) = removed {
            return Ok(Unmapped { start: iova, bytes, touched: removed? });
        }
        let more = bytes.checked_sub(1).ok_or(UnmapError::Empty)?;
        if !(iova.get() | bytes).is_multiple_of(PAGE_SIZE) {
            return Err(UnmapError::Misaligned);
        }
        let start = iova.get();
        let last = start.checked_add(more).ok_or(UnmapError::NotMapped(iova))?;
        if last > self.reach() {
            let end = self.reach().saturating_add(1);
            return Err(UnmapError::NotMapped(Iova::new(end.max(start))));
        }
        self.unmap_from_root(frames, Span { start, last }, retired)
    }

    /// Unmaps a range: in one walk, if it is whole pages of one table.
    #[inline(never)]
    fn unmap_from_root(
        &mut self,
        frames: &mut impl TableFrames,
        span: Span,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Unmapped, UnmapError> {
        let node = match self.near_small(frames, span) {
            Some(node) => node,
            None => self.root_node(frames)?,
        };
        if let Some(node) = pages_of_one_table(frames, node, span)? {
            let count = index(node.level, span.last) + 1 - index(node.level, span.start);
            let touched = self.clear(frames, &node, span.start, count, retired)?;
            if touched == Touched::Leaves {
                self.near.note(&node, span.start);
            }
            return Ok(span.unmapped(touched));
        }
        let unmapped = Remove::new(self.format, span).remove(frames, self, retired)?;
        if unmapped.touched == Touched::Tables {
            self.near = Near::NONE;
            retired.append(&mut self.outgrown);
        }
        Ok(unmapped)
    }

    /// Where an address leads, as hardware would find it.
    #[inline]
    pub fn translate(&self, frames: &impl TableFrames, iova: Iova) -> Option<Translation> {
        let address = iova.get();
        if address > self.reach() {
            return None;
        }
        let mut node = self.root_node(frames).ok()?;
        let mut allowed = Permissions::ALL;
        loop {
            match node.entry(address) {
                Entry::Empty => return None,
                Entry::Table { frame, level, permissions } => {
                    if !holds::<F>(node.level, level, address) {
                        return None;
                    }
                    allowed = allowed.and(permissions);
                    node = node.below(frames, frame, level).ok()?;
                }
                Entry::Leaf { start, order, permissions } => {
                    return Some(Translation {
                        phys: start.checked_add(address & low_bits(order))?,
                        access: allowed.and(permissions).access()?,
                        page_bytes: 1 << order,
                    });
                }
            }
        }
    }

    /// All frames that it is in, the root last.
    pub fn frames(&self, frames: &impl TableFrames) -> Vec<PhysAddr> {
        let mut all = Vec::new();
        if let Ok(root) = self.root_node(frames) {
            root.collect(frames, &mut all);
        }
        all
    }

    /// Takes the table apart: all its frames are added to `retired`. Units may still walk them.
    pub fn destroy(self, frames: &mut impl TableFrames, retired: &mut Vec<PhysAddr>) {
        if let Ok(root) = self.root_node(frames) {
            root.collect(frames, retired);
        }
        retired.extend(self.outgrown);
    }

    /// The last address that can be reached from the root.
    #[inline]
    pub(super) fn reach(&self) -> u64 {
        table_mask(self.top)
    }

    #[inline]
    pub(super) fn root_node<'a>(
        &self,
        frames: &'a impl TableFrames,
    ) -> Result<Node<'a, F>, Foreign> {
        Node::new(frames, self.format, self.root, self.top)
    }
}
