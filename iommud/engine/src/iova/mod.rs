//! Which I/O addresses are free.
//!
//! One [`IovaAllocator`] stands behind each domain and says where the next buffer appears to its
//! devices. It writes no table and knows no hardware: it counts pages.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`allocator`] | [`IovaAllocator`]: reserve, allocate, and what is where |
//! | [`request`] | [`IovaRequest`], [`IovaRange`], [`Guard`], and the addresses reserved everywhere |
//! | [`error`] | [`IovaError`]: every way in which a request fails |
//! | `wanted` | a request in pages |
//! | `freeing` | allocations that are taken back |
//! | `pads` | pages that are set aside behind large pages |
//! | `at_hand` | ranges given out and taken back without a search |
//! | `free` | the free ranges, in a tree that finds the lowest fit |
//! | `held` | what is known of an allocated range |
//! | `notes` | what holders of addresses note of them |
//! | `magazine` | ranges lately freed, kept at hand for the next request of their size |

pub mod allocator;
mod at_hand;
pub mod error;
mod free;
mod freeing;
mod held;
mod magazine;
mod notes;
mod pads;
pub mod request;
#[cfg(test)]
mod tests;
mod wanted;

pub use allocator::IovaAllocator;
pub(crate) use at_hand::{Idle, Live};
pub use error::IovaError;
pub(crate) use held::Place as RecordPlace;
pub use request::{
    Guard, HYPERTRANSPORT_RANGE, INTERRUPT_RANGE, IovaRange, IovaRequest, PAGE_ZERO,
};
