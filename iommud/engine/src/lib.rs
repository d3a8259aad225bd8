//! Everything that knows IOMMU hardware.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`platform`] | what the engine needs from the world, and all of it |
//! | [`acpi`] | what firmware says: the DMAR table |
//! | [`table`] | the page-table algorithm, over entry formats |
//! | [`iova`] | which I/O addresses are free |
//! | [`fault`] | a request that a unit refused, in words |
//! | [`vtd`] | Intel VT-d: its registers, tables and requests |
//! | [`ledger`] | what must survive the daemon, written in the arena |
//!
//! The engine has no I/O of its own and never waits: an operation that hardware must confirm gives a
//! ticket, and [`platform`] is polled for it. It contains no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
#[cfg(test)]
mod fakes;
pub mod fault;
pub mod iova;
pub mod ledger;
pub mod platform;
pub mod table;
pub mod vtd;
