//! Intel VT-d: the structures of the hardware, as types.
//!
//! Section numbers in this folder are those of the Intel Virtualization Technology for Directed I/O
//! Architecture Specification, revision 5.10 (order number D51397-018, November 2025).
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`unit`](mod@unit) | one unit: its tables, its caches, its faults |
//! | [`bring_up`] | its way from what firmware left to default deny |
//! | [`invalidator`] | how it is made to forget, by its queue or its registers |
//! | [`queue`] | the invalidation queue in memory |
//! | [`second_stage`] | the entries of its page tables |
//! | [`registers`] | every register the engine uses, and [`registers::RegisterFile`] to reach them |
//! | [`probe`] | what a unit can do, and why one is refused |
//! | [`root`] | the root table: one entry for each bus |
//! | [`context`] | the context tables: one entry for each function; table widths |
//! | [`invalidation`] | what can be invalidated, whichever interface carries the request |
//! | [`descriptor`] | invalidation requests as the queue carries them |
//! | [`plan`] | the fewest requests that cover a range of addresses |
//! | [`fault`] | fault records, decoded |
//! | [`fault_log`] | where they are, and the message that says so |
//!
//! Legacy translation mode only: scalable mode, device TLBs and interrupt remapping are not used.

pub mod bring_up;
pub mod context;
pub mod descriptor;
pub mod fault;
pub mod fault_log;
pub mod invalidation;
pub mod invalidator;
pub mod plan;
pub mod probe;
pub mod queue;
pub mod registers;
pub mod root;
pub mod second_stage;
pub mod unit;
