//! One page table.

use alloc::vec::Vec;

use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};

use super::enter::{Place, Plan, find, write};
use super::error::{Foreign, MapError, UnmapError};
use super::fill::{fill, fill_small};
use super::format::{Entry, Format, Permissions, low_bits, table_mask};
use super::near::Near;
use super::node::Node;
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
    /// The addresses of a range that is not empty, and whole pages.
    pub(super) fn of(iova: Iova, bytes: u64) -> Option<Self> {
        let last = iova.get().checked_add(bytes.checked_sub(1)?)?;
        (iova.get() | bytes).is_multiple_of(PAGE_SIZE).then_some(Self { start: iova.get(), last })
    }

    /// Whether a table of level 0 spans as much.
    fn is_in_one_table(self) -> bool {
        (self.start ^ self.last) <= table_mask(0)
    }

    /// Whether an address is in it.
    fn holds(self, address: u64) -> bool {
        (self.start..=self.last).contains(&address)
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
    #[inline(always)]
    pub fn map(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        access: Access,
    ) -> Result<Touched, MapError> {
        if let [piece] = *memory
            && self.map_at_hand(frames, iova, piece, access)
        {
            return Ok(Touched::Leaves);
        }
        self.map_range(frames, iova, memory, access)
    }

    /// The frames of the tables on the way to the one that is kept although it is empty, if there is one, and its own: all that
    /// could go with it, so the root not.
    pub fn way_to_empty(&self, frames: &impl TableFrames) -> Vec<PhysAddr> {
        let mut way = Vec::new();
        let Some(kept) = self.near.empty(frames, self.format) else { return way };
        let Ok(mut node) = self.root_node(frames) else { return way };
        while node.frame != kept.frame
            && let Entry::Table { frame, level, .. } = node.entry(kept.base)
            && let Ok(below) = node.below(frames, frame, level)
        {
            way.push(frame);
            node = below;
        }
        way
    }

    /// Maps a range, where no empty table is in the way.
    #[inline(never)]
    fn map_range(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        access: Access,
    ) -> Result<Touched, MapError> {
        let span = self.span_of(iova, memory)?;
        let mapped = self.map_span(frames, span, memory, access.into());
        mapped.map_err(|error| match (error, self.near.empty(frames, self.format)) {
            (MapError::Occupied(_), Some(kept)) if span.holds(kept.base) => MapError::EmptyTable,
            (error, _) => error,
        })
    }

    /// Maps a range: in one walk, if it is pages in a table that exists.
    #[inline]
    fn map_span(
        &mut self,
        frames: &mut impl TableFrames,
        span: Span,
        memory: &[Segment],
        permissions: Permissions,
    ) -> Result<Touched, MapError> {
        if let [_, _, ..] = memory
            && self.enter_near(frames, span, memory, permissions)
        {
            return Ok(Touched::Leaves);
        }
        let mut pieces = Pieces::new(span.start, memory);
        let root = self.root_node(frames)?;
        if span.last <= self.reach()
            && let Some(batch) = pieces.next(root.page_sizes())
        {
            let alone = batch.iova + (batch.bytes - 1) == span.last;
            let small = span.is_in_one_table() && batch.level == 0;
            if (alone || small)
                && let Place::Table(node) = find(frames, root, span.start, batch.level)?
                && let Some(used) = self.near.of(frames, &node, span.start)
            {
                used.live += if small {
                    fill_small(frames, &node, span, memory, permissions)?
                } else {
                    fill(frames, &node, &batch, span, permissions)?
                };
                return Ok(Touched::Leaves);
            }
        }
        self.map_anywhere(frames, span, Pieces::new(span.start, memory), permissions)
    }

    /// The addresses that memory will be mapped at, if all is as it must be.
    #[inline]
    pub(super) fn span_of(&self, iova: Iova, memory: &[Segment]) -> Result<Span, MapError> {
        let mut bytes = 0u64;
        let (mut low, mut high) = (iova.get(), 0);
        for segment in memory {
            let start = segment.start.get();
            low |= start | segment.bytes;
            // All bits, for a segment of nothing. Where the end is beyond all numbers, one of the others is beyond all addresses.
            let last = start.wrapping_add(segment.bytes).wrapping_sub(1);
            high |= start | last | segment.bytes.wrapping_sub(1);
            bytes = bytes.saturating_add(segment.bytes);
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
        self.near.settle(frames, self.format);
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
    /// Tables that are empty then are unlinked and added to `retired`, but for one, which is kept until it is
    /// [given up](Self::give_up_empty). They must not be used again before every unit that could walk them has confirmed that it
    /// has forgotten the range (rule R2).
    ///
    /// # Errors
    ///
    /// [`UnmapError`], with nothing changed.
    #[inline(always)]
    pub fn unmap(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Unmapped, UnmapError> {
        if self.unmap_at_hand(frames, iova, bytes) {
            return Ok(Unmapped { start: iova, bytes, touched: Touched::Leaves });
        }
        self.unmap_range(frames, iova, bytes, retired)
    }

    /// Unmaps a range: in one walk, if it is whole pages of one table.
    #[inline(never)]
    fn unmap_range(
        &mut self,
        frames: &mut impl TableFrames,
        iova: Iova,
        bytes: u64,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Unmapped, UnmapError> {
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
        let span = Span { start, last };
        let node = match self.near.get_mut(0, start, last) {
            Some(used) => Node::new(frames, self.format, used.frame, 0)?,
            None => self.root_node(frames)?,
        };
        if let Some(node) = pages_of_one_table(frames, node, span)?
            && let Some(touched) = self.clear(frames, &node, span, retired)?
        {
            return Ok(span.unmapped(touched));
        }
        self.near.settle(frames, self.format);
        let before = retired.len();
        let may_keep = self.near.empty(frames, self.format).is_none();
        let remove = Remove::new(self.format, span, may_keep);
        let (unmapped, kept) = remove.remove(frames, self, retired)?;
        self.near.keep_instead(kept, &retired[before..]);
        if unmapped.touched == Touched::Tables {
            retired.append(&mut self.outgrown);
        }
        Ok(unmapped)
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
