//! AMD-Vi: the structures of the hardware, as types.
//!
//! Section, figure and table numbers in this folder are those of the AMD I/O Virtualization Technology (IOMMU)
//! Specification, publication 48882, revision 3.11.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`device_table`] | the device table in memory |
//! | [`device_table_entry`] | its entries |
//! | [`event_log`] | the event log in memory |
//! | [`event`] | what the event log holds, decoded |
//! | [`page_table`] | the entries of its page tables |
//! | [`registers`] | every register the engine uses, and [`registers::RegisterFile`] to reach them |
//! | [`unit`](mod@unit) | one unit: its tables, its caches, its faults |
//! | [`spec`] | what it must know of what firmware says |
//! | [`bring_up`] | its way from what firmware left to default deny |
//! | [`invalidator`] | how it is made to forget, by its command buffer |
//! | [`command_buffer`] | that, in memory |
//! | [`capability`] | the unit's capability in configuration space |
//! | [`probe`] | what a unit can do, and why one is refused |
//! | [`invalidation`] | what can be invalidated |
//! | [`command`] | that, as the command buffer carries it |
//! | [`reserved`] | I/O addresses that are never memory |
//! | [`plan`] | the fewest commands that cover a range of addresses |

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
pub mod invalidation;
pub mod invalidator;
pub mod page_table;
pub mod plan;
pub mod probe;
pub mod registers;
pub mod reserved;
pub mod spec;
pub mod unit;
