//! The arena of table frames: a huge page at a time, kept until the process ends.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use std::io;
use std::rc::Rc;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{TableFrame, TableFrames};

use super::huge_pages::{HUGE_PAGE, HugePages};
use super::pagemap::PageMap;
use crate::platform::cache_lines;
use crate::platform::frame_book::FrameBook;

/// Frames for tables.
#[derive(Debug)]
pub struct TableArena {
    map: Rc<PageMap>,
    /// Of each page, where its first frame is in this process.
    book: FrameBook<NonNull<TableFrame>>,
    /// The pages, kept mapped: hardware may walk them until the moment the process is gone, and after.
    pages: Vec<HugePages>,
    header: PhysAddr,
}

impl TableArena {
    /// An arena with its first page, of which the first frame is the header.
    pub fn new(map: Rc<PageMap>) -> io::Result<Self> {
        let (book, pages) = (FrameBook::default(), Vec::new());
        let mut arena = Self { map, book, pages, header: PhysAddr::default() };
        arena.grow()?;
        arena.header = arena.alloc_frame().ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(arena)
    }

    /// Where its pages are.
    pub fn places(&self) -> impl Iterator<Item = PhysAddr> {
        self.pages.iter().flat_map(|page| page.physical().iter().copied())
    }

    /// Adds a page.
    fn grow(&mut self) -> io::Result<()> {
        let page = HugePages::new("iommud-tables", HUGE_PAGE, &self.map)?;
        let start = *page.physical().first().ok_or(io::ErrorKind::OutOfMemory)?;
        self.book.add(start, (HUGE_PAGE / PAGE_SIZE) as usize, page.start().cast());
        self.pages.push(page);
        Ok(())
    }

    /// The frame with this number in the page whose first frame is given, both out of the book.
    fn frame(&self, (first, index): (NonNull<TableFrame>, usize)) -> &TableFrame {
        // SAFETY: the book holds only pages that this arena keeps mapped, for reading and writing, and gives
        // no number outside the page. The memory is aligned and only ever reached through these atomic words
        // and by hardware.
        unsafe { first.add(index).as_ref() }
    }
}

impl TableFrames for TableArena {
    fn header_frame(&self) -> PhysAddr {
        self.header
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        let (frame, first, index) = match self.book.take() {
            Some(taken) => taken,
            None => {
                self.grow().ok()?;
                self.book.take()?
            }
        };
        for word in self.frame((first, index)) {
            word.store(0, Ordering::Relaxed);
        }
        Some(frame)
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        let (start, first, index) = match self.book.take_run(frames) {
            Some(taken) => taken,
            None => {
                self.grow().ok()?;
                self.book.take_run(frames)?
            }
        };
        for word in (index..index + frames).flat_map(|index| self.frame((first, index))) {
            word.store(0, Ordering::Relaxed);
        }
        Some(start)
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        if frame != self.header {
            self.book.give_back(frame);
        }
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.book.find(frame).map(|found| self.frame(found))
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        if let Some(words) = self.table(frame).and_then(|table| table.get(entries)) {
            cache_lines::write_back(words);
        }
    }
}
