//! The arena of table frames: a huge page at a time.
//!
//! It shrinks, too: the engine frees a frame only when no unit can walk it any more, so that a page of free frames is
//! nobody's. The page with the header always stays.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;
use std::io;
use std::rc::Rc;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::{TableFrame, TableFrames};

use super::huge_pages::{HUGE_PAGE, HugePages};
use super::keeper::Source;
use super::parcel::{Purpose, Shown};
use crate::platform::cache_lines;
use crate::platform::frame_book::FrameBook;

/// How many frames a huge page has.
const FRAMES: usize = (HUGE_PAGE / PAGE_SIZE) as usize;

/// Frames for tables.
#[derive(Debug)]
pub struct TableArena {
    source: Rc<Source>,
    /// Of each page, where its first frame is in this process.
    book: FrameBook<NonNull<TableFrame>>,
    /// The pages, kept mapped: hardware may walk them.
    pages: Vec<HugePages>,
    /// Those of a process before this one, as long as nobody knows which of their frames are in use.
    inherited: Vec<HugePages>,
    header: PhysAddr,
    changes: u64,
}

impl TableArena {
    /// An arena without pages, not even for the header.
    pub fn new(source: Rc<Source>) -> Self {
        let (book, header) = (FrameBook::default(), PhysAddr::default());
        Self { source, book, pages: Vec::new(), inherited: Vec::new(), header, changes: 0 }
    }

    /// Takes the first page, and its first frame for the header.
    ///
    /// # Errors
    ///
    /// There is no page.
    pub fn begin(&mut self) -> io::Result<()> {
        self.grow()?;
        self.header = self.alloc_frame().ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(())
    }

    /// Adds a page of a process before this one.
    ///
    /// # Errors
    ///
    /// It is longer than one of this arena's.
    pub fn inherit(&mut self, page: HugePages) -> io::Result<()> {
        let [start] = *page.physical() else {
            page.leave();
            return Err(io::ErrorKind::InvalidData.into());
        };
        self.book.add_inherited(start, FRAMES, page.start().cast());
        self.inherited.push(page);
        Ok(())
    }

    /// Finds the header among what was inherited: it is the first frame of the first page that there was.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn find_header(&mut self) -> io::Result<()> {
        let first = self.inherited.iter().min_by_key(|page| page.number());
        let header = first.and_then(|page| page.physical().first());
        self.header = *header.ok_or(io::ErrorKind::InvalidData)?;
        self.book.keep(self.header, 1);
        Ok(())
    }

    /// Where its pages are.
    pub fn places(&self) -> impl Iterator<Item = PhysAddr> {
        let pages = self.pages.iter().chain(&self.inherited);
        pages.flat_map(|page| page.physical().iter().copied())
    }

    /// What a keeper is shown of them.
    pub fn pieces(&self) -> impl Iterator<Item = Shown<'_>> {
        let pages = self.pages.iter().chain(&self.inherited);
        pages.map(|page| page.shown(Purpose::Tables))
    }

    /// How often that has changed.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Notes that inherited frames are in use. `false` if they are not inherited, or were noted before.
    pub fn keep(&mut self, start: PhysAddr, frames: usize) -> bool {
        start == self.header && frames == 1 || self.book.keep(start, frames)
    }

    /// What was not noted of what is inherited is free.
    pub fn settle(&mut self) {
        self.book.settle();
        self.pages.append(&mut self.inherited);
        self.shrink();
    }

    /// Gives back pages of which all frames are free, but one.
    fn shrink(&mut self) {
        while let Some(spare) = self.book.remove_spare() {
            self.pages.retain(|page| page.physical().first() != Some(&spare));
            self.changes += 1;
        }
    }

    /// Gives up what is inherited, the header included.
    pub fn set_aside(&mut self) {
        self.book.set_aside();
        self.inherited.drain(..).for_each(HugePages::leave);
        self.changes += 1;
    }

    /// Adds a page.
    fn grow(&mut self) -> io::Result<()> {
        let page = HugePages::new(Purpose::Tables, HUGE_PAGE, &self.source)?;
        let start = *page.physical().first().ok_or(io::ErrorKind::OutOfMemory)?;
        self.book.add(start, FRAMES, page.start().cast());
        self.pages.push(page);
        self.changes += 1;
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
            self.shrink();
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
