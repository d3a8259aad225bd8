//! The page-table algorithm: one radix tree over entry formats.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`format`] | [`Format`]: what an entry looks like, and which there are |
//! | [`page_table`] | [`PageTable`]: map, unmap, translate, visit, destroy |
//! | [`pieces`] | physical memory in pieces, taken from the front |
//! | [`error`] | why a range could not be mapped or unmapped |
//! | `enter` | how a range is entered: looked at first, then written |
//! | `remove` | how a range is removed, and large pages taken apart |
//!
//! # The tree
//!
//! Tables are frames of 512 entries. A table of level 0 holds entries of 4 KiB each; an entry of level *n*
//! spans 512 times one of level *n* - 1. An entry is empty (zero in every format), points to a table
//! further down, or maps a page. A page can be larger than its entry's span and then fills several entries
//! alike; a table can be more than one level further down, and then the address bits of the levels between
//! are zero; the root can be put under a new one when addresses outgrow it.
//!
//! # While hardware walks it
//!
//! Every change is the store of one word, and a table is whole before an entry points to it. A table that
//! becomes empty is unlinked and given to the caller, with its contents as they were: the unit may still
//! walk it until the caller has had the invalidation confirmed (rule R2). Units that do not snoop get every
//! changed entry flushed, in the same order.
//!
//! # All or nothing
//!
//! A range that lies in one table of level 0 is checked and written in one walk. Any other is walked twice:
//! the first time everything is checked and the tables that are missing are counted and allocated, the
//! second time nothing can fail any more (rule R7). Emptiness is found by looking, from the changed entry
//! outwards: next to it is where a neighbour is most likely, so that this takes a step or two, and nothing
//! has to be counted, kept, or restored when a restarted daemon takes the tables over.

mod enter;
pub mod error;
pub mod format;
pub mod page_table;
pub mod pieces;
mod remove;
#[cfg(test)]
mod tests;

pub use error::{MapError, UnmapError};
pub use format::{Entry, Format};
pub use page_table::{Leaf, PageTable, Translation, Unmapped};
