//! A VT-d unit at register level: legacy mode, as the Intel VT-d Architecture Specification, revision 3.1, has it.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `registers` | register offsets and layouts (10.4) |
//! | `entries` | root, context and second-stage entries (chapter 9) |
//! | [`config`] | [`VtdConfig`]: what a unit can do, and how slowly |
//! | [`fault`] | [`FaultReason`] and the fault recording registers (chapter 7) |
//! | `event` | the interrupts a unit sends of its own |
//! | `cache` | context cache, IOTLB, paging-structure cache (chapter 6.2) |
//! | `walk` | from a request to an address or a fault (chapter 3) |
//! | `command` | global commands and register-based invalidation (10.4.4, 6.5.1) |
//! | `queue` | queued invalidation (6.5.2) |
//! | `protected` | protected memory regions (10.4.16) |
//! | [`mod@unit`] | [`VtdUnit`]: the register file that holds it together |

mod cache;
mod command;
pub mod config;
mod entries;
mod event;
pub mod fault;
mod protected;
mod queue;
mod registers;
pub mod unit;
pub(crate) mod walk;

pub use config::{Timing, VtdConfig};
pub use fault::FaultReason;
pub use unit::{Counters, Violation, VtdUnit};

pub use crate::pace::{Completion, Health};
pub use crate::request::{Access, Message};
