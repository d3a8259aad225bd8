//! What is known of an allocated range.

use bitfield_struct::bitfield;

use crate::page_map::PageMap;

/// What is known of a range, besides its first page.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub(super) struct Held {
    /// Its pages, the guard not counted. Wide enough for any size that bytes can name.
    #[bits(62)]
    pub(super) pages: u64,
    /// Whether a guard page follows it.
    pub(super) guard: bool,
    /// Whether it has been freed and waits in a magazine.
    pub(super) idle: bool,
}

impl Held {
    /// Its pages with the guard.
    #[inline]
    pub(super) const fn span(self) -> u64 {
        self.pages() + self.guard() as u64
    }
}

/// The allocated ranges, by first page.
pub(super) type HeldRanges = PageMap<Held>;
