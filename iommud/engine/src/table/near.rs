//! The tables that were used last: the next range is often in one of them.

use dma_types::PhysAddr;

use super::format::{Format, table_mask};
use super::node::Node;

/// Of each of the lowest levels, the table used last, and the first address that it holds. It is forgotten
/// when any table is unlinked.
#[derive(Debug)]
pub(super) struct Near([(u64, PhysAddr); 3]);

impl Near {
    /// None. No table starts with this address.
    pub(super) const NONE: Self = Self([(u64::MAX, PhysAddr::new(0)); 3]);

    /// The table of a level, if it holds a range.
    #[inline]
    pub(super) fn get(&self, level: u8, start: u64, last: u64) -> Option<PhysAddr> {
        let (base, frame) = *self.0.get(usize::from(level))?;
        (((start ^ base) | (last ^ base)) <= table_mask(level)).then_some(frame)
    }

    /// Notes the table that an address is in.
    #[inline]
    pub(super) fn note<F: Format>(&mut self, node: &Node<'_, F>, address: u64) {
        if let Some(near) = self.0.get_mut(usize::from(node.level)) {
            *near = (node.base(address), node.frame);
        }
    }
}
