//! Mappings that lie one behind the other, entered at one go.
//!
//! Each has a start and an end of its own, so that whoever finds the table tells one from the next.

use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PAGE_SIZE};

use super::fill::{occupied, write_small};
use super::format::{Format, PAGE_SHIFT, index, table_mask};
use super::node::Node;
use super::page_table::{PageTable, Span};
use crate::platform::{Segment, TableFrames};
use crate::segments;

impl<F: Format> PageTable<F> {
    /// Enters mappings one behind the other from `iova` on: the memory of all of them, and of each how long it is and what may
    /// be done with it. Only if those are entries of one table that there is, and all is as it must be; else nothing has changed.
    pub fn map_chain_at_hand(
        &mut self,
        frames: &impl TableFrames,
        iova: Iova,
        memory: &[Segment],
        mappings: impl Iterator<Item = (u64, Access)>,
    ) -> bool {
        let Ok(span) = self.span_of(iova, memory) else { return false };
        // What is as long as all of a table may be a large page.
        if span.last - span.start == table_mask(0) || !self.has_near(frames, 0, span) {
            return false;
        }
        let Some(used) = self.near.get_mut(0, span.start, span.last) else { return false };
        let Ok(node) = Node::new(frames, self.format, used.frame, 0) else { return false };
        let first = index(0, span.start);
        let slots = node.slots(first, index(0, span.last) + 1 - first);
        if occupied::<F>(0, slots, span.start).is_some() {
            return false;
        }
        let (mut rest, mut start) = (memory, span.start);
        for (bytes, access) in mappings {
            let here;
            (here, rest) = segments::split_at_bytes(rest, bytes);
            match *here {
                [page] if page.bytes == PAGE_SIZE => {
                    let word = node.format.leaf(0, PAGE_SHIFT, page.start, access.into());
                    let slot = &node.words[index(0, start)];
                    slot.store(word | F::START | F::END, Ordering::Release);
                }
                _ => {
                    let span = Span { start, last: start + (bytes - 1) };
                    write_small(&node, span, here, access.into());
                }
            }
            start += bytes;
        }
        used.live += slots.len();
        node.flush(frames, first, slots.len());
        true
    }
}
