//! Pads: pages that are set aside behind large pages.
//!
//! Behind a range that starts where a large page can, and is as long as some, its guard leaves a hole before the next place for
//! such. That hole is not put among the free ranges, but set aside with the range as its *pad*, so that a space full of large
//! pages is not one of as many holes. A pad is free: who asks for an address in it by name is given it, and before a request
//! finds no room all pads are free for everybody, and none are set aside in that space any more.

use alloc::vec::Vec;
use core::mem;

use super::allocator::IovaAllocator;
use super::free::FreeRange;
use super::wanted::Wanted;
use crate::table::format::{LARGE_PAGE, PAGE_SHIFT};

/// How many pages the shortest large page is.
const LARGE_PAGES: u64 = LARGE_PAGE >> PAGE_SHIFT;

impl<N: Copy + Default> IovaAllocator<N> {
    /// How many pages are to be set aside behind a range that ends before this page: up to the next where a large page can
    /// start, if all of them are free.
    #[inline]
    pub(super) fn pad_behind(&self, end: u64, within: FreeRange, wanted: Wanted) -> u64 {
        let next = end.next_multiple_of(LARGE_PAGES);
        let is_large = self.has_pads && 1 << wanted.order >= LARGE_PAGES;
        if is_large && next <= within.end { next - end } else { 0 }
    }

    /// Makes the pages free for everybody that are set aside behind a range.
    pub(super) fn trim(&mut self, start: u64) {
        let Some((_, held)) = self.held.find(start) else { return };
        let extent = held.extent;
        if extent.pad() > 0 {
            held.extent = extent.with_pad(0);
            self.free.give(start + extent.firm(), start + extent.span());
        }
    }

    /// The same of all ranges.
    pub(super) fn trim_all(&mut self) {
        let padded = self.held.iter_from(0).filter(|(_, held)| held.extent.pad() > 0);
        let padded: Vec<u64> = padded.map(|(start, _)| start).collect();
        padded.into_iter().for_each(|start| self.trim(start));
    }

    /// The same, and none are set aside any more: where addresses are short it is done once.
    pub(super) fn take_back_pads(&mut self) {
        if mem::take(&mut self.has_pads) {
            self.trim_all();
        }
    }
}
