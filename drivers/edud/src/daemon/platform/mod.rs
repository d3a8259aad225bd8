//! What differs between Linux and Redox.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `linux` | a process in a Linux guest: sysfs, and handles that are sockets |
//! | `redox` | a process on Redox: pcid's channel, and handles of the `iommu` scheme |
//! | `wait` | waiting for a handle on Redox, by an event queue |
//!
//! Either has the same names, re-exported here: `Function`, `connect`, `adopt`, `let_inherit`, `report_ready`
//! and `wait_readable`.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "redox")]
mod redox;
#[cfg(target_os = "redox")]
mod wait;

#[cfg(target_os = "linux")]
pub use linux::{Function, adopt, connect, let_inherit, report_ready, wait_readable};
#[cfg(target_os = "redox")]
pub use redox::{Function, adopt, connect, let_inherit, report_ready};
#[cfg(target_os = "redox")]
pub use wait::wait_readable;
