//! An AMD-Vi unit at register level: host translation, as the AMD I/O Virtualization Technology Specification
//! (48882) has it; section numbers are those of its revision 3.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `registers` | register offsets and layouts (3.4) |
//! | `entries` | device table and page table entries (2.2) |
//! | [`config`] | [`AmdviConfig`]: what a unit can do, and how slowly |
//! | [`event`] | [`EventCode`], and the layout of events (2.5) |
//! | `log` | the event log |
//! | `cache` | device table, page and page directory caches |
//! | `walk` | from a request to an address or an event |
//! | `command` | the command buffer (2.4) |
//! | [`mod@unit`] | [`AmdviUnit`]: the register file that holds it together |
//!
//! What the specification leaves open, and what is done here: the head of a stopped command buffer stays at
//! the command that stopped it; a read of no bytes is allowed where a read or a write is; what is cached
//! with fewer rights than the tables have by now is not looked up again.

mod cache;
mod command;
pub mod config;
mod entries;
pub mod event;
mod log;
mod registers;
pub mod unit;
mod walk;

pub use config::{AmdviConfig, AmdviTiming};
pub use event::EventCode;
pub use unit::{AmdviUnit, Counters, Violation};
