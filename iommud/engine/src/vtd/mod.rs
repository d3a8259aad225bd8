//! Intel VT-d: the structures of the hardware, as types.
//!
//! Section numbers in this folder are those of the Intel Virtualization Technology for Directed I/O
//! Architecture Specification, revision 5.10 (order number D51397-018, November 2025).
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`registers`] | every register the engine uses, and [`registers::RegisterFile`] to reach them |
//! | [`probe`] | what a unit can do, and why one is refused |
//! | [`root`] | the root table: one entry for each bus |
//! | [`context`] | the context tables: one entry for each function; domain ids and table widths |
//! | [`invalidation`] | what can be invalidated, whichever interface carries the request |
//! | [`descriptor`] | invalidation requests as the queue carries them |
//! | [`plan`] | the fewest requests that cover a range of addresses |
//! | [`fault`] | fault records, decoded |
//!
//! Legacy translation mode only: scalable mode, device TLBs and interrupt remapping are not used.

pub mod context;
pub mod descriptor;
pub mod fault;
mod field;
pub mod invalidation;
pub mod plan;
pub mod probe;
pub mod registers;
pub mod root;
