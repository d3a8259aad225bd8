//! What an entry looks like, and which there are.

use dma_types::{Access, PhysAddr};

/// The logarithm of the smallest page.
pub const PAGE_SHIFT: u32 = 12;

/// How many bits a physical address has at the most: the architectural limit of x86, and what an entry has
/// room for in both vendors' formats.
pub const PHYSICAL_BITS: u32 = 52;

/// The logarithm of the number of entries in a table.
pub const INDEX_BITS: u32 = 9;

/// The logarithm of what an entry of this level spans.
pub const fn shift(level: u8) -> u32 {
    PAGE_SHIFT + INDEX_BITS * level as u32
}

/// The entry of a table of this level that an address goes through.
pub const fn index(level: u8, address: u64) -> usize {
    (address >> shift(level)) as usize & ((1 << INDEX_BITS) - 1)
}

/// What an entry means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing is there.
    Empty,
    /// The rest is in another table.
    Table {
        /// Where it is.
        frame: PhysAddr,
        /// Its level, below that of the table that the entry is in.
        level: u8,
        /// What may be done below, at the most; `None` for nothing.
        access: Option<Access>,
    },
    /// A page.
    Leaf {
        /// Where the page starts.
        start: PhysAddr,
        /// The logarithm of its length: at least the entry's span.
        order: u32,
        /// What may be done with it; `None` for nothing.
        access: Option<Access>,
    },
}

/// The layout of a table's entries.
///
/// A word of zero is an empty entry in every format.
pub trait Format: Copy {
    /// Whether a table may be more than one level below the entry that points to it. If not, the format
    /// need not be able to say so.
    const SKIPS_LEVELS: bool = false;

    /// How many levels a new table has, at least one.
    fn levels(&self) -> u8;

    /// How many levels the root can grow to, at most 6.
    fn max_levels(&self) -> u8;

    /// The sizes of pages: bit *n* for pages of two to the *n* bytes. Pages of 4 KiB there always are, and if
    /// there is any size between the spans of two levels, then the lower span is one too.
    fn page_sizes(&self) -> u64;

    /// Whether the unit snoops the processors' caches when it walks tables.
    fn is_coherent(&self) -> bool;

    /// What the word means in a table of this level.
    fn decode(&self, level: u8, word: u64) -> Entry;

    /// The word that maps a page of two to the `order` bytes in a table of this level. It fills as many
    /// entries as the page is longer than their span. The address stands in the word at its own place, as
    /// it does in all formats there are: of two pages alike, the words differ as their addresses do.
    fn leaf(&self, level: u8, order: u32, start: PhysAddr, access: Access) -> u64;

    /// The word, in a table of this level, that points to a table of level `below` and allows everything.
    fn table(&self, level: u8, frame: PhysAddr, below: u8) -> u64;
}
