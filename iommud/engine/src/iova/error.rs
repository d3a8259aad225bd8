//! Every way in which a request for addresses fails.

use dma_types::Iova;
use thiserror::Error;

use super::request::IovaRange;

/// Why addresses were not given, taken back or reserved. Whatever the reason, nothing has changed
/// (rule R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IovaError {
    /// A range of no bytes.
    #[error("a range of zero bytes is not a range")]
    ZeroSize,
    /// A size that is not whole pages.
    #[error("a size of {bytes:#x} bytes is not a multiple of 4096")]
    NotPages {
        /// The size asked for.
        bytes: u64,
    },
    /// An alignment that is not a power of two, or less than a page.
    #[error("an alignment of {align:#x} is not a power of two of at least 4096")]
    BadAlignment {
        /// The alignment asked for.
        align: u64,
    },
    /// A chosen address that no page starts at.
    #[error("no page starts at I/O address {iova}")]
    NotPageStart {
        /// The address asked for.
        iova: Iova,
    },
    /// The range runs past the last address of the space, or past 64 bits.
    #[error("{range} does not end within the I/O address space, which ends at {last}")]
    OutsideSpace {
        /// The range asked for.
        range: IovaRange,
        /// The last address of the space.
        last: Iova,
    },
    /// There is room, but only at addresses that the device cannot reach.
    #[error(
        "no room for {bytes:#x} bytes and a guard page aligned to {align:#x} up to I/O address {limit}, \
         though there is higher up; the longest free range up to there is {longest:#x} bytes"
    )]
    NoRoomUnderLimit {
        /// The size asked for.
        bytes: u64,
        /// The alignment asked for.
        align: u64,
        /// The highest address that might have been used.
        limit: Iova,
        /// The bytes of the longest free range that ends no higher.
        longest: u64,
    },
    /// There is no room anywhere in the space.
    #[error(
        "no room for {bytes:#x} bytes and a guard page aligned to {align:#x} in the I/O address space; \
         its longest free range is {longest:#x} bytes"
    )]
    NoRoom {
        /// The size asked for.
        bytes: u64,
        /// The alignment asked for.
        align: u64,
        /// The bytes of the longest free range.
        longest: u64,
    },
    /// The range lies on an allocation or its guard page.
    #[error("the range overlaps the allocation {allocation} or its guard page")]
    Allocated {
        /// The allocation, without its guard page.
        allocation: IovaRange,
    },
    /// The range lies on addresses that are never given out.
    #[error("the range overlaps {reserved}, which is reserved")]
    Reserved {
        /// The reserved range.
        reserved: IovaRange,
    },
    /// No allocation starts at this address.
    #[error("no allocation starts at I/O address {iova}")]
    NotAllocated {
        /// The address given.
        iova: Iova,
    },
    /// An allocation starts at this address, but has another size.
    #[error("the allocation {allocation} cannot be freed as {bytes:#x} bytes")]
    SizeMismatch {
        /// The allocation as it is.
        allocation: IovaRange,
        /// The size given.
        bytes: u64,
    },
}
