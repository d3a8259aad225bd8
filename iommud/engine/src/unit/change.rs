//! What a unit is told about its tables.

use dma_types::{Iova, PhysAddr};

use super::DomainId;

/// Which entries of a page table changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Only entries that map pages: what a unit caches of the tables above them may stay.
    Leaves,
    /// Entries that point to tables, too.
    Tables,
}

/// A range of a domain whose table has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where it starts.
    pub start: Iova,
    /// How long it is. It covers every large page whole of which a part has changed.
    pub bytes: u64,
    /// What has changed in the table.
    pub touched: Touched,
}

/// How a device's requests are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The tag of what is cached.
    pub domain: DomainId,
    /// The root of the page table.
    pub table: PhysAddr,
    /// How many levels the table has.
    pub levels: u8,
}
