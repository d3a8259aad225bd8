//! What an entry looks like, and which there are.

use dma_types::{Access, PAGE_SIZE, PhysAddr};

/// The logarithm of the smallest page.
pub const PAGE_SHIFT: u32 = PAGE_SIZE.trailing_zeros();

/// The logarithm of the number of entries in a table.
pub const INDEX_BITS: u32 = 9;

/// The logarithm of what an entry of this level spans.
#[inline]
pub const fn shift(level: u8) -> u32 {
    PAGE_SHIFT + INDEX_BITS * level as u32
}

/// The length of the shortest page that is entered where a table could be: what an entry of level 1 spans, 2 MiB.
pub const LARGE_PAGE: u64 = 1 << shift(1);

/// The entry of a table of this level that an address goes through. Levels are at most 5.
#[inline]
pub const fn index(level: u8, address: u64) -> usize {
    (address >> shift(level)) as usize & ((1 << INDEX_BITS) - 1)
}

/// The offset bits of what an entry of this level spans.
#[inline]
pub const fn slot_mask(level: u8) -> u64 {
    low_bits(shift(level))
}

/// The offset bits of what a table of this level spans: all there are for level 5.
#[inline]
pub const fn table_mask(level: u8) -> u64 {
    if level < 5 { low_bits(shift(level + 1)) } else { u64::MAX }
}

/// The lowest `bits` bits, fewer than 64.
#[inline]
pub const fn low_bits(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// What an entry allows. Unlike [`Access`] it can be nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// Everything.
    pub const ALL: Self = Self::new(true, true);

    /// To read, to write, both or nothing.
    #[inline]
    pub const fn new(read: bool, write: bool) -> Self {
        Self(read as u8 | (write as u8) << 1)
    }

    /// Bit 0 for reading and bit 1 for writing, of as many as there may be.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits as u8 & 3)
    }

    /// Bit 0 for reading and bit 1 for writing.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0 as u64
    }

    /// Whether reading is allowed.
    #[inline]
    pub const fn read(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether writing is allowed.
    #[inline]
    pub const fn write(self) -> bool {
        self.0 & 2 != 0
    }

    /// What both allow.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The same as an access, if there is any.
    #[inline]
    pub const fn access(self) -> Option<Access> {
        match self.0 {
            0 => None,
            1 => Some(Access::Read),
            2 => Some(Access::Write),
            _ => Some(Access::ReadWrite),
        }
    }
}

impl From<Access> for Permissions {
    #[inline]
    fn from(access: Access) -> Self {
        Self(access.bits())
    }
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
        /// Its level, below that of the table that the entry is in, or the entry makes no sense.
        level: u8,
        /// What may be done below, at the most.
        permissions: Permissions,
    },
    /// A page.
    Leaf {
        /// Where the page starts.
        start: PhysAddr,
        /// The logarithm of its length: at least the entry's span, and less than the table's.
        order: u32,
        /// What may be done with it.
        permissions: Permissions,
    },
}

/// Bits next to each other, in every entry of a format, that hardware ignores whatever the entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpareBits {
    /// The lowest.
    pub shift: u32,
    /// How many, 1 to 9.
    pub bits: u32,
}

/// The layout of a table's entries.
///
/// A word of zero is an empty entry in every format.
pub trait Format: Copy {
    /// Whether a table may be more than one level below the entry that points to it.
    const SKIPS_LEVELS: bool = false;

    /// Whether such tables are made. Not where a unit is known to walk them wrongly.
    const MAKES_SKIPS: bool = Self::SKIPS_LEVELS;

    /// An entry is empty just when none of these bits is set.
    const PRESENT: u64;

    /// Where a table counts how many of its entries are in use. The first few entries hold a part each.
    const SPARE: SpareBits;

    /// Set in the first entry of a mapping's first page: there it starts. A bit that hardware ignores in every page.
    const START: u64;

    /// Set in the first entry of a mapping's last page, after all others were written: a mapping is whole just when it goes
    /// from a start to an end. Another such bit.
    const END: u64;

    /// How many bits a physical address can have.
    const ADDRESS_BITS: u32 = 52;

    /// How many levels a new table has, at least one.
    fn levels(&self) -> u8;

    /// How many levels the root can grow to, at most 6.
    fn max_levels(&self) -> u8;

    /// The sizes of pages: bit *n* for pages of two to the *n* bytes. Pages of 4 KiB there always are.
    fn page_sizes(&self) -> u64;

    /// Whether the unit snoops the processors' caches when it walks tables.
    fn is_coherent(&self) -> bool;

    /// What the word means in a table of this level. One that makes no sense points to a table of a level that
    /// is not below: it is refused when it is met (rule R5).
    fn decode(&self, level: u8, word: u64) -> Entry;

    /// Where the table just below is, if the word points to it and allows everything, as all do that are made. For any
    /// other word it is no address of a frame: no multiple of 4096, or beyond [`ADDRESS_BITS`](Self::ADDRESS_BITS). So a walk
    /// has to look at nothing but whether there is a frame.
    #[inline]
    fn straight_below(&self, level: u8, word: u64) -> PhysAddr {
        match self.decode(level, word) {
            Entry::Table { frame, level: below, permissions: Permissions::ALL }
                if below + 1 == level =>
            {
                frame
            }
            _ => PhysAddr::new(u64::MAX),
        }
    }

    /// The word that maps a page of two to the `order` bytes in a table of this level. It fills as many
    /// entries as the page is longer than their span. The address stands in the word at its own place, as
    /// it does in all formats there are: of two pages alike, the words differ as their addresses do.
    fn leaf(&self, level: u8, order: u32, start: PhysAddr, permissions: Permissions) -> u64;

    /// The word, in a table of this level, that points to a table of level `below` and allows everything.
    fn table(&self, level: u8, frame: PhysAddr, below: u8) -> u64;
}
