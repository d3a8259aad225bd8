//! A table that a daemon left that has died, perhaps between two stores.
//!
//! It is looked at first, and nothing of it is believed: every frame must be one of the arena's that nothing else is in,
//! and every level lower than the one above. What can be told then is which mappings are whole, for each is marked where
//! it starts and where it ends ([`Format::START`], [`Format::END`]): a map writes the end last, and an unmap clears the
//! start first. Everything else was half entered or half removed. It is nobody's, and goes when the table is
//! [pruned](PageTable::prune).

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use dma_types::{Access, Iova, PhysAddr};

use super::error::Foreign;
use super::format::{Entry, Format, Permissions, shift};
use super::near::Near;
use super::node::Node;
use super::page_table::PageTable;
use crate::platform::{Segment, TableFrames};
use crate::unit::Touched;

/// What is mapped side by side in a table that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts.
    pub iova: Iova,
    /// Its length.
    pub bytes: u64,
    /// What may be done with it.
    pub access: Access,
    /// The memory that is mapped there, adjacent pieces as one.
    pub memory: Vec<Segment>,
}

/// Why a table that was found cannot be gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATable(pub PhysAddr);

impl From<Foreign> for NotATable {
    fn from(Foreign(frame): Foreign) -> Self {
        Self(frame)
    }
}

/// How the pages of a table are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// By the marks: each mapping by itself, if it is whole.
    ByMarks,
    /// By what they are of: every page is as good as another, and those that continue each other are one.
    ByMemory,
}

impl<F: Format> PageTable<F> {
    /// The table with this root and so many levels, of which nothing is known. It is to be looked at and
    /// [pruned](Self::prune) before anything else.
    pub fn found(format: F, root: PhysAddr, levels: u8) -> Option<Self> {
        let top = levels.checked_sub(1).filter(|_| levels <= format.max_levels())?;
        Some(Self { format, root, top, outgrown: Vec::new(), near: Near::NONE })
    }

    /// Looks at all of the table, and changes nothing. `visit` is asked for each frame whether nothing else is in it, and
    /// is to say so once. What is mapped, by address.
    ///
    /// # Errors
    ///
    /// [`NotATable`] for what cannot be one of our tables: a frame that is not in the arena or has been visited, or an entry
    /// that we never write.
    pub fn examine(
        &self,
        frames: &impl TableFrames,
        told: Told,
        visit: &mut impl FnMut(PhysAddr) -> bool,
    ) -> Result<Vec<Extent>, NotATable> {
        let mut reader = Reader { told, open: None, extents: Vec::new() };
        reader.read(frames, self.root_node(frames)?, 0, visit)?;
        reader.break_off();
        Ok(reader.extents)
    }

    /// Removes every page of which `keeps` does not say that it stays, counts all entries afresh, and unlinks the tables
    /// that are empty then: they are added to `retired`. The table must have been [looked at](Self::examine).
    ///
    /// # Errors
    ///
    /// [`NotATable`], as when it was looked at.
    pub fn prune(
        &mut self,
        frames: &impl TableFrames,
        keeps: &mut impl FnMut(Iova) -> bool,
        retired: &mut Vec<PhysAddr>,
    ) -> Result<Touched, NotATable> {
        let mut touched = Touched::Leaves;
        prune(frames, self.root_node(frames)?, 0, keeps, retired, &mut touched)?;
        Ok(touched)
    }

    /// Whether a root that a unit may still go by, of so many levels, is one that this table has grown out of: the first
    /// table of its level, or an empty one.
    pub fn has_grown_from(&self, frames: &impl TableFrames, root: PhysAddr, levels: u8) -> bool {
        let Ok(mut node) = self.root_node(frames) else { return false };
        let Some(level) = levels.checked_sub(1) else { return false };
        while node.level > level {
            let Entry::Table { frame, level: below, .. } = node.entry(0) else { break };
            let Ok(next) = node.below(frames, frame, below) else { return false };
            node = next;
        }
        if node.level == level && node.frame == root {
            return true;
        }
        let old = Node::new(frames, self.format, root, level);
        level < self.top && old.is_ok_and(|old| old.is_empty())
    }
}

/// Reads a table by address.
struct Reader {
    told: Told,
    /// What the last page belongs to, if it has not come to an end.
    open: Option<Extent>,
    extents: Vec<Extent>,
}

impl Reader {
    fn read<F: Format>(
        &mut self,
        frames: &impl TableFrames,
        node: Node<'_, F>,
        base: u64,
        visit: &mut impl FnMut(PhysAddr) -> bool,
    ) -> Result<(), NotATable> {
        if !visit(node.frame) {
            return Err(NotATable(node.frame));
        }
        let mut passed = 0;
        for (slot, word) in node.words.iter().enumerate() {
            if slot < passed {
                continue;
            }
            let iova = base + ((slot as u64) << shift(node.level));
            let word = word.load(Ordering::Acquire);
            match node.format.decode(node.level, word) {
                Entry::Empty => self.break_off(),
                Entry::Table { frame, level, permissions } => {
                    // We make none that allows less, nor one that skips levels.
                    let below = node.below(frames, frame, level)?;
                    if permissions != Permissions::ALL || level + 1 != node.level {
                        return Err(NotATable(frame));
                    }
                    self.read(frames, below, iova, visit)?;
                }
                Entry::Leaf { start, order, permissions } => {
                    let count = 1 << (order - shift(node.level));
                    let Some(access) = permissions.access() else {
                        return Err(NotATable(node.frame));
                    };
                    if slot % count != 0 || !is_whole(&node, slot, count) {
                        self.break_off();
                        continue;
                    }
                    passed = slot + count;
                    let page = (Iova::new(iova), Segment { start, bytes: 1 << order }, access);
                    self.page(page, word & F::START != 0, word & F::END != 0);
                }
            }
        }
        Ok(())
    }

    /// Takes note of the next page.
    fn page(&mut self, (iova, memory, access): (Iova, Segment, Access), starts: bool, ends: bool) {
        let by_marks = self.told == Told::ByMarks;
        let follows = self.open.as_ref().is_some_and(|open| {
            let goes_on = open.iova.get().wrapping_add(open.bytes) == iova.get();
            let alike = by_marks || open.memory.last().is_some_and(|last| continues(last, &memory));
            goes_on && open.access == access && alike
        });
        if !follows || by_marks && starts {
            self.break_off();
            if starts || !by_marks {
                self.open = Some(Extent { iova, bytes: 0, access, memory: Vec::new() });
            }
        }
        let Some(open) = &mut self.open else { return };
        open.bytes += memory.bytes;
        match open.memory.last_mut() {
            Some(last) if continues(last, &memory) => last.bytes += memory.bytes,
            _ => open.memory.push(memory),
        }
        if by_marks && ends {
            self.extents.extend(self.open.take());
        }
    }

    /// The next page, if there is one, belongs to something else.
    fn break_off(&mut self) {
        let open = self.open.take();
        // What is told by marks has none where it ends.
        self.extents.extend(open.filter(|_| self.told == Told::ByMemory));
    }
}

/// Whether one piece of memory begins where another ends.
fn continues(before: &Segment, next: &Segment) -> bool {
    before.start.checked_add(before.bytes) == Some(next.start)
}

/// Whether a page fills all the entries that it is to fill.
fn is_whole<F: Format>(node: &Node<'_, F>, slot: usize, count: usize) -> bool {
    let entry = |word: u64| node.format.decode(node.level, word);
    let mut words = node.slots(slot, count).iter().map(|word| word.load(Ordering::Acquire));
    let first = words.next().map(entry);
    count == 1 || words.all(|word| Some(entry(word)) == first)
}

/// Prunes a table: whether it is empty then.
fn prune<F: Format>(
    frames: &impl TableFrames,
    node: Node<'_, F>,
    base: u64,
    keeps: &mut impl FnMut(Iova) -> bool,
    retired: &mut Vec<PhysAddr>,
    touched: &mut Touched,
) -> Result<bool, NotATable> {
    let mut live = 0;
    for (slot, word) in node.words.iter().enumerate() {
        let iova = base + ((slot as u64) << shift(node.level));
        let stays = match node.format.decode(node.level, word.load(Ordering::Acquire)) {
            // What is not present can hold a part of the count, and be left as it is.
            Entry::Empty => continue,
            Entry::Leaf { .. } => keeps(Iova::new(iova)),
            Entry::Table { frame, level, .. } => {
                let below = node.below(frames, frame, level)?;
                let is_empty = prune(frames, below, iova, keeps, retired, touched)?;
                if is_empty {
                    *touched = Touched::Tables;
                    retired.push(frame);
                }
                !is_empty
            }
        };
        if stays {
            live += 1;
        } else {
            word.store(0, Ordering::Release);
            node.flush(frames, slot, 1);
        }
    }
    node.set_live(live);
    node.flush(frames, 0, 9);
    Ok(live == 0)
}
