//! Where an address leads.

use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PhysAddr};

use super::format::{Entry, Format, PAGE_SHIFT, Permissions, index, low_bits, table_mask};
use super::node::holds;
use super::page_table::PageTable;
use crate::platform::TableFrames;

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

impl<F: Format> PageTable<F> {
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
