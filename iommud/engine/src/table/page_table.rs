//! One page table.

use alloc::vec::Vec;
use core::slice;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PAGE_SIZE, PhysAddr};

use super::enter::{Place, Plan, find, write};
use super::error::{Foreign, MapError, UnmapError};
use super::fill::{fill, fill_small};
use super::format::{
    Entry, Format, LARGE_PAGE, PAGE_SHIFT, Permissions, index, low_bits, shift, slot_mask,
    table_mask,
};
use super::near::{Near, Used};
use super::node::{Node, holds};
use super::pieces::Pieces;
use super::remove::{Remove, clear_some, pages_of_one_table};
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
    /// The addresses of a range that is not empty, and whole pages.
    fn of(iova: Iova, bytes: u64) -> Option<Self> {
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

    /// The same of one piece of memory, if that is entries of one table that there is, and all is as it must be. Else nothing
    /// has changed.
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
    fn enter_near(
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

    /// The same, if that is whole pages of one table, and others stay in it: units must be made to forget just
    /// the range, of which only entries of pages have changed. Else nothing has changed.
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

    /// Where an address leads, as hardware would find it.
    #[inline]
    pub fn translate(&self, frames: &impl TableFrames, iova: Iova) -> Option<Translation> {
        // Written three times, so that the shifts are known.
        match self.top {
            3 => self.translate_from::<3>(frames, iova.get()),
            2 => self.translate_from::<2>(frames, iova.get()),
            4 => self.translate_from::<4>(frames, iova.get()),
            _ => self.translate_any(frames, iova.get()),
        }
    }

    /// Where an address leads from a root of this level: to a page of 4 KiB most of the time.
    #[inline(always)]
    fn translate_from<const TOP: u8>(
        &self,
        frames: &impl TableFrames,
        address: u64,
    ) -> Option<Translation> {
        if let Some(word) = self.straight_to::<TOP>(frames, address)
            && let Entry::Leaf { start, order: PAGE_SHIFT, permissions } =
                self.format.decode(0, word)
        {
            return translation(address, start, PAGE_SHIFT, permissions);
        }
        // Put together again, so that what is found above need not be put in memory for the same caller.
        let Translation { phys, access, page_bytes } = self.translate_any(frames, address)?;
        Some(Translation { phys, access, page_bytes })
    }

    /// The entry of the lowest level that an address goes through, if all are such on the way from a root of this level as we
    /// make.
    #[inline(always)]
    fn straight_to<const TOP: u8>(&self, frames: &impl TableFrames, address: u64) -> Option<u64> {
        if address > table_mask(TOP) {
            return None;
        }
        let mut table = frames.table(self.root)?;
        for level in (1..=TOP).rev() {
            let word = table[index(level, address)].load(Ordering::Acquire);
            table = frames.table(self.format.straight_below(level, word))?;
        }
        Some(table[index(0, address)].load(Ordering::Acquire))
    }

    /// Where an address leads whatever is on the way.
    #[inline(never)]
    fn translate_any(&self, frames: &impl TableFrames, address: u64) -> Option<Translation> {
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
                    return translation(address, start, order, allowed.and(permissions));
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

/// Has an entry that was stored written back, for a unit that does not snoop.
#[inline(always)]
fn flush_entry(frames: &impl TableFrames, format: impl Format, used: &Used, slot: usize) {
    if !format.is_coherent() {
        frames.flush_entries(used.frame, slot..slot + 1);
    }
}

/// Where an address leads that is in a page.
#[inline]
fn translation(
    address: u64,
    start: PhysAddr,
    order: u32,
    permissions: Permissions,
) -> Option<Translation> {
    Some(Translation {
        phys: PhysAddr::new(start.get() | address & low_bits(order)),
        access: permissions.access()?,
        page_bytes: 1 << order,
    })
}
