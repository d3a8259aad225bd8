//! How much of a pool is used.

use alloc::sync::Arc;
use core::fmt;

/// How much of a pool is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// What the pool is called.
    pub label: Arc<str>,
    /// The length of a block in bytes.
    pub block_bytes: usize,
    /// How many blocks there are, free ones among them.
    pub blocks: usize,
    /// How many of them are given out.
    pub in_use: usize,
    /// The most that were ever given out at once.
    pub most_in_use: usize,
    /// How many chunks of memory the blocks are in.
    pub chunks: usize,
    /// How many times a block was given out.
    pub allocations: u64,
    /// How many times there was none to be had.
    pub failures: u64,
}

impl PoolStats {
    /// What the columns of a line are.
    pub const HEADER: &'static str =
        "POOL             IN USE   MOST BLOCKS  BYTES CHUNKS  ALLOCATIONS FAILED";
}

impl fmt::Display for PoolStats {
    /// One line, as Linux's `/sys/devices/…/pools` has one for each pool, with the columns of
    /// [`HEADER`](PoolStats::HEADER).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, block_bytes, blocks, in_use, most_in_use, chunks, .. } = self;
        let Self { allocations, failures, .. } = self;
        write!(
            f,
            "{label:<16} {in_use:>6} {most_in_use:>6} {blocks:>6} {block_bytes:>6} {chunks:>6} "
        )?;
        write!(f, "{allocations:>12} {failures:>6}")
    }
}
