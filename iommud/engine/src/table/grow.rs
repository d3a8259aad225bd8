//! The root under a new one, when addresses outgrow it.

use dma_types::PhysAddr;

use super::error::MapError;
use super::format::{Entry, Format, table_mask};
use super::node::Node;
use super::page_table::{PageTable, Span};
use super::supply::Supply;
use crate::platform::TableFrames;

impl<F: Format> PageTable<F> {
    /// Puts the root under a new one, from which all of a range can be reached.
    pub(super) fn grow(
        &mut self,
        frames: &mut impl TableFrames,
        span: Span,
    ) -> Result<(), MapError> {
        let mut top = self.top;
        while span.last > table_mask(top) {
            top += 1;
        }
        let old = self.root_node(frames)?;
        let is_empty = old.is_empty();
        let tables = if is_empty || F::MAKES_SKIPS { 1 } else { usize::from(top - self.top) };
        self.outgrown.try_reserve(1).map_err(|_| MapError::OutOfFrames)?;
        let mut supply = Supply::allocate(frames, tables, self.format.is_coherent())?;
        if is_empty {
            self.outgrown.push(self.root);
            (self.root, self.top) = (supply.take()?, top);
            return Ok(());
        }
        while self.top < top {
            let level = if F::MAKES_SKIPS { top } else { self.top + 1 };
            let new = Node::new(frames, self.format, supply.take()?, level)?;
            new.store(frames, 0, self.format.table(level, self.root, self.top), 1);
            (self.root, self.top) = (new.frame, level);
        }
        Ok(())
    }

    /// Undoes the growth. Nobody has been told of the new root, so its frames are free at once.
    pub(super) fn shrink(
        &mut self,
        frames: &mut impl TableFrames,
        (root, top, outgrown): (PhysAddr, u8, usize),
    ) {
        let (mut frame, mut level) = (self.root, self.top);
        while frame != root && level > top {
            let below = Node::new(frames, self.format, frame, level).map(|node| node.entry(0));
            frames.free_frame(frame);
            match below {
                Ok(Entry::Table { frame: next, level: below, .. }) => {
                    (frame, level) = (next, below);
                }
                _ => break,
            }
        }
        (self.root, self.top) = (root, top);
        self.outgrown.truncate(outgrown);
    }
}
