//! Every page, by address, and every table.

use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PhysAddr};

use super::error::MapError;
use super::format::{Entry, Format, Permissions, shift};
use super::node::Node;
use super::page_table::PageTable;
use crate::platform::TableFrames;

/// A page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its I/O address.
    pub iova: Iova,
    /// Where it is in memory.
    pub start: PhysAddr,
    /// How long it is.
    pub bytes: u64,
    /// What may be done with it, on the whole way.
    pub access: Access,
}

impl<F: Format> PageTable<F> {
    /// Visits every page, by address.
    ///
    /// # Errors
    ///
    /// [`MapError::Foreign`] at a table that is not in the arena.
    pub fn visit(
        &self,
        frames: &impl TableFrames,
        mut visitor: impl FnMut(Leaf),
    ) -> Result<(), MapError> {
        visit(frames, self.root_node(frames)?, 0, Permissions::ALL, &mut visitor)
    }
}

impl<F: Format> PageTable<F> {
    /// Visits the frame of every table, the root's and those of former roots included.
    ///
    /// # Errors
    ///
    /// [`MapError::Foreign`] at a table that is not in the arena.
    pub fn visit_tables(
        &self,
        frames: &impl TableFrames,
        mut visitor: impl FnMut(PhysAddr),
    ) -> Result<(), MapError> {
        self.outgrown.iter().for_each(|frame| visitor(*frame));
        visit_tables(frames, self.root_node(frames)?, &mut visitor)
    }
}

fn visit_tables<F: Format>(
    frames: &impl TableFrames,
    node: Node<'_, F>,
    visitor: &mut impl FnMut(PhysAddr),
) -> Result<(), MapError> {
    visitor(node.frame);
    for word in node.words {
        if let Entry::Table { frame, level, .. } =
            node.format.decode(node.level, word.load(Ordering::Acquire))
        {
            visit_tables(frames, node.below(frames, frame, level)?, visitor)?;
        }
    }
    Ok(())
}

fn visit<F: Format>(
    frames: &impl TableFrames,
    node: Node<'_, F>,
    base: u64,
    allowed: Permissions,
    visitor: &mut impl FnMut(Leaf),
) -> Result<(), MapError> {
    let mut passed = 0;
    for (slot, word) in node.words.iter().enumerate() {
        // A large page fills several entries, and is seen at the first.
        if slot < passed {
            continue;
        }
        let iova = base + ((slot as u64) << shift(node.level));
        match node.format.decode(node.level, word.load(Ordering::Acquire)) {
            Entry::Empty => {}
            Entry::Table { frame, level, permissions } => {
                let below = node.below(frames, frame, level)?;
                visit(frames, below, iova, allowed.and(permissions), visitor)?;
            }
            Entry::Leaf { start, order, permissions } => {
                if let Some(access) = allowed.and(permissions).access() {
                    visitor(Leaf { iova: Iova::new(iova), start, bytes: 1 << order, access });
                }
                passed = slot + (1 << (order - shift(node.level)));
            }
        }
    }
    Ok(())
}
