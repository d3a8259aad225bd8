//! An arena that grows and shrinks by chunks, and gives pages out of them: for tables, which no client ever sees.
//!
//! A chunk is contiguous in physical memory. Each has room for as much as all before it, up to what the kernel
//! gives at once, so that the kernel is asked seldom. One in which nothing is given out any more goes back to
//! the kernel when there is another such one that is as large.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::Segment;

use super::area::Region;
use super::memory::{Chunk, Left, Memory};
use crate::platform::frame_book::FrameBook;
use crate::platform::pieces::{LARGEST_PIECE, next_chunk, next_piece};

/// One page of a pool. Hardware may see it.
pub type Page = [AtomicU64; 512];

/// Pages out of a few chunks.
pub struct PagePool {
    memory: Rc<Memory>,
    /// Of each chunk, where its first page is in this process.
    book: FrameBook<NonNull<Page>>,
    /// By where they start in physical memory, with their lengths in bytes.
    chunks: BTreeMap<PhysAddr, (Chunk, u64)>,
    /// Those of a process before this one, as long as nobody knows which of their pages are in use.
    inherited: BTreeSet<PhysAddr>,
    changes: u64,
}

/// Pages that were given out, adjacent in physical memory and in this process.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// Where they are in physical memory.
    pub physical: PhysAddr,
    /// Where they are in this process: mapped for reading and writing until they are given back.
    pub start: NonNull<Page>,
}

impl PagePool {
    /// A pool without chunks.
    pub fn new(memory: Rc<Memory>) -> Self {
        let (book, chunks) = (FrameBook::default(), BTreeMap::new());
        Self { memory, book, chunks, inherited: BTreeSet::new(), changes: 0 }
    }

    /// A page in a first chunk, of the header's region.
    pub fn take_first(&mut self) -> Option<Pages> {
        let bytes = next_chunk(0, PAGE_SIZE);
        let (chunk, start) = self.memory.contiguous(Region::Header, bytes as usize).ok()??;
        self.add(start, chunk, bytes);
        // The chunk that was added last is looked at first.
        self.take(1)
    }

    /// Adds a chunk of a process before this one, of which nobody knows yet which pages are in use: where it starts, or the
    /// chunk if it is no piece of physical memory.
    pub fn inherit(&mut self, left: Left) -> Result<PhysAddr, Left> {
        let &[Segment { start, bytes }] = &left.segments[..] else { return Err(left) };
        let frames = (bytes / PAGE_SIZE) as usize;
        self.book.add_inherited(start, frames, left.chunk.start().cast());
        self.chunks.insert(start, (left.chunk, bytes));
        self.inherited.insert(start);
        self.changes += 1;
        Ok(start)
    }

    /// Notes that inherited pages are in use. `false` if one is not inherited, or was noted before.
    pub fn keep(&mut self, start: PhysAddr, count: usize) -> bool {
        self.book.keep(start, count)
    }

    /// What was not noted of what is inherited is free.
    pub fn settle(&mut self) {
        self.inherited.clear();
        self.book.settle();
        self.shrink();
    }

    /// Gives up what is inherited, while the object goes on having it.
    pub fn set_aside(&mut self) {
        self.book.set_aside();
        for start in core::mem::take(&mut self.inherited) {
            if let Some((chunk, _)) = self.chunks.remove(&start) {
                chunk.leave();
            }
        }
        self.changes += 1;
    }

    /// Where its chunks are.
    pub fn chunks(&self) -> impl Iterator<Item = Segment> {
        self.chunks.iter().map(|(&start, &(_, bytes))| Segment { start, bytes })
    }

    /// How often they have changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// This many adjacent pages of zeroes, which start at a multiple of their size, rounded up to a power of
    /// two. `None` when there is no such memory, for no pages, and for more than the kernel gives at once.
    pub fn take(&mut self, count: usize) -> Option<Pages> {
        let pages = match self.take_free(count) {
            Some(pages) => pages,
            None => {
                self.grow(count)?;
                self.take_free(count)?
            }
        };
        self.clear(pages, count);
        Some(pages)
    }

    /// Fills pages with zeroes: somebody may have had them before (rule R8).
    fn clear(&self, pages: Pages, count: usize) {
        for index in 0..count {
            for word in self.page((pages.start, index)) {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    fn add(&mut self, start: PhysAddr, chunk: Chunk, bytes: u64) {
        self.book.add(start, (bytes / PAGE_SIZE) as usize, chunk.start().cast());
        self.chunks.insert(start, (chunk, bytes));
        self.changes += 1;
    }

    /// Takes pages back, all that were taken at once or some of them. Whatever is no page of the pool, or
    /// has not been taken, is left as it is.
    pub fn give_back(&mut self, start: PhysAddr, count: usize) {
        for index in 0..count as u64 {
            if let Some(page) = start.checked_add(index * PAGE_SIZE) {
                self.book.give_back(page);
            }
        }
        self.shrink();
    }

    fn shrink(&mut self) {
        while let Some(spare) = self.book.remove_spare() {
            self.chunks.remove(&spare);
            self.changes += 1;
        }
    }

    /// The page at this address, `None` if it is none of the pool's.
    pub fn find(&self, page: PhysAddr) -> Option<&Page> {
        self.book.find(page).map(|found| self.page(found))
    }

    fn take_free(&mut self, count: usize) -> Option<Pages> {
        let taken = if count == 1 { self.book.take() } else { self.book.take_run(count) };
        let (physical, first, index) = taken?;
        // SAFETY: the book gives no number outside the chunk, which is one mapping.
        Some(Pages { physical, start: unsafe { first.add(index) } })
    }

    /// Adds a chunk in which this many adjacent pages are to be had: as large as is due, or as there is memory
    /// for.
    fn grow(&mut self, count: usize) -> Option<()> {
        let needed = (count as u64).checked_mul(PAGE_SIZE)?.checked_next_power_of_two()?;
        let mut limit = next_chunk(self.book.frames() as u64 * PAGE_SIZE, needed);
        while limit >= needed {
            let bytes = next_piece(LARGEST_PIECE, limit)?;
            if let Some((chunk, start)) =
                self.memory.contiguous(Region::Tables, bytes as usize).ok()?
            {
                self.add(start, chunk, bytes);
                return Some(());
            }
            limit = bytes / 2;
        }
        None
    }

    /// The page with this number after the given one, both out of the book.
    fn page(&self, (first, index): (NonNull<Page>, usize)) -> &Page {
        // SAFETY: the book holds only chunks that this pool keeps mapped, for reading and writing, and gives no
        // number outside the chunk. The memory is page-aligned, and here it is only ever reached through
        // these atomic words.
        unsafe { first.add(index).as_ref() }
    }
}
