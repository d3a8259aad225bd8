//! What a unit says of itself, for reports.

use alloc::string::String;

/// What a unit says of itself, besides its [abilities](super::Abilities).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The version of the architecture, or what stands for it.
    pub version: String,
    /// How many domain ids it has, the one that is never given out included.
    pub domain_ids: u32,
    /// How it is asked to forget.
    pub invalidation: InvalidatesBy,
    /// Whether it can forget single pages.
    pub page_selective: bool,
    /// Whether it caches that something is not mapped (VT-d CAP.CM, AMD-Vi NpCache).
    pub caching_mode: bool,
    /// Whether its write buffers must be flushed by hand (VT-d CAP.RWBF).
    pub write_buffer_flush: bool,
    /// How many faults it records before it loses some.
    pub fault_records: u32,
}

/// How a unit is asked to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidatesBy {
    /// By a queue in memory.
    Queue,
    /// By registers, one request at a time.
    Registers,
}
