//! The page-table algorithm: one radix tree over entry formats.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`format`] | [`Format`]: what an entry looks like, and which there are |
//! | [`page_table`] | [`PageTable`]: map, unmap, destroy |
//! | [`translate`] | where an address leads |
//! | [`visit`] | every page, by address |
//! | [`found`] | a table that a daemon left that has died |
//! | [`error`] | why a range could not be mapped or unmapped |
//! | `at_hand` | entries of a table that there is, in and out of it without a walk |
//! | `fill` | how pages are written into one table |
//! | `chain` | mappings one behind the other, entered at one go |
//! | `enter` | how a range is entered that takes more: looked at first, then written |
//! | `grow` | the root under a new one, when addresses outgrow it |
//! | `remove` | how a range is removed: looked at first, then cleared, and tables unlinked |
//! | `split` | what is left of a large page of which a part is removed |
//! | `pieces` | physical memory, taken from the front by pages alike |
//! | `node` | one table: its entries, and how many are in use |
//! | `near` | the tables that were used last |
//! | `supply` | the frames that an operation needs |
//!
//! # The tree
//!
//! Tables are frames of 512 entries. A table of level 0 holds entries of 4 KiB each; an entry of level *n*
//! spans 512 times one of level *n* - 1. An entry is empty, points to a table further down, or
//! maps a page. A page can be larger than its entry's span and then fills several entries
//! alike; a table can be more than one level further down, and then the address bits of the levels between
//! are zero; the root can be put under a new one when addresses outgrow it.
//!
//! No table but the root is empty, and one more, which stays when its last entry goes: what is mapped and unmapped alone in
//! a table makes none then. It stays until a large page is to go where it is, or it is given up. Each counts its entries in
//! bits that hardware ignores, so that the last one's going is known at once, wherever it was. Those used last are remembered,
//! for that is where the next range is most likely.
//!
//! # While hardware walks it
//!
//! Every change is the store of one word, and what an entry points to is visible before it: a new table of
//! zeroes, or the rest of a large page, complete. A table that becomes empty is unlinked and given to the
//! caller, with its contents as they were: the unit may still walk it until the caller has had the
//! invalidation confirmed (rule R2). Units that do not snoop get every changed entry flushed, in the same
//! order.
//!
//! # After a restart
//!
//! Whoever goes on with the tables of a daemon that died, perhaps between two stores, has to know what [`found`] does
//! about it:
//!
//! - Root, level and format stand nowhere in the tables. The [ledger](crate::ledger) has them.
//! - Counts cannot be trusted. Every table that is reached from the root is counted afresh, before anything is
//!   mapped or unmapped; empty ones are unlinked.
//! - What is mapped need not be what was asked for: a map may have been entered in part, an unmap removed in
//!   part. A mapping is whole if its pages go from one that is marked as the start to one that is marked as the end, for
//!   those are written last and cleared first. The rest is unmapped.
//! - Frames that no root reaches may have been unlinked with their invalidation still to be confirmed. They are free
//!   once every unit has confirmed that it has forgotten everything (rule R2).
//!
//! A wrong count can unlink pages that are mapped, or keep an empty table. It cannot map anything.
//!
//! # All or nothing
//!
//! Pages alike, in one table that exists, are checked and written in one walk. Anything else is walked
//! twice: the first time everything is checked and the tables that are missing are counted and allocated,
//! the second time nothing can fail any more (rule R7). Nothing is written and then taken back, for a unit
//! could have cached it meanwhile.

mod at_hand;
mod chain;
mod enter;
pub mod error;
mod fill;
pub mod format;
pub mod found;
mod grow;
mod near;
mod node;
pub mod page_table;
mod pieces;
mod remove;
mod split;
mod supply;
#[cfg(test)]
mod tests;
pub mod translate;
pub mod visit;

pub use error::{MapError, UnmapError};
pub use format::{Entry, Format, Permissions, SpareBits};
pub use found::{Extent, NotATable, Told};
pub use page_table::{PageTable, Unmapped};
pub use translate::Translation;
pub use visit::Leaf;
