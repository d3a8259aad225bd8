//! AMD-Vi: the structures of the hardware, as types.
//!
//! Section, figure and table numbers in this folder are those of the AMD I/O Virtualization Technology (IOMMU)
//! Specification, publication 48882, revision 3.11.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`unit`](mod@unit) | one unit: its tables, its caches, its faults |
//! | [`spec`] | what it must know of what firmware says |
//! | [`bring_up`] | its way from what firmware left to default deny |
//! | [`invalidator`] | how it is made to forget, by its command buffer |
//! | [`command_buffer`] | the command buffer in memory |
//! | [`device_table`] | the device table in memory |
//! | [`device_table_entry`] | its entries: what one requester may reach |
//! | [`page_table`] | the entries of its page tables |
//! | [`event_log`] | the event log in memory |
//! | [`event`] | what it holds, decoded |
//! | [`interrupt`] | the message that says that it holds something |
//! | [`registers`] | every register the engine uses, and [`registers::RegisterFile`] to reach them |
//! | [`capability`] | its capability in configuration space |
//! | [`probe`] | what a unit can do, and why one is refused |
//! | [`invalidation`] | what can be invalidated |
//! | [`command`] | that, as the command buffer carries it |
//! | [`plan`] | the fewest commands that cover a range of addresses |
//!
//! Version 1 host tables only: guest translation, page requests, devices' own caches (ATS), virtual units and
//! interrupt remapping are not used.

pub mod bring_up;
pub mod capability;
pub mod command;
pub mod command_buffer;
pub mod device_table;
pub mod device_table_entry;
pub mod event;
pub mod event_log;
#[cfg(test)]
mod fake;
pub mod interrupt;
pub mod invalidation;
pub mod invalidator;
pub mod page_table;
pub mod plan;
pub mod probe;
pub mod registers;
pub mod spec;
pub mod unit;
