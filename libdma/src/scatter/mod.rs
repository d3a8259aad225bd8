//! Scatter lists: memory in pieces that is one transfer.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `list` | [`ScatterList`] |
//! | `merge` | [`Segment`], and how few of them it takes |
//! | `contents`, `piece` | what is beneath |

mod contents;
mod list;
mod merge;
mod piece;

pub use list::ScatterList;
pub use merge::Segment;
