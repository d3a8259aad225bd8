//! What differs between Linux and Redox.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `linux` | a process in a Linux guest: sysfs, and handles that are sockets |
//! | `redox` | a process on Redox: pcid's channel, and handles of the `iommu` scheme |
//! | `pcid` | what is said over pcid's channel |
//!
//! Either has the same names, re-exported here: `Function`, `connect`, `adopt`, `let_inherit` and
//! `report_ready`.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "redox", test))]
mod pcid;
#[cfg(target_os = "redox")]
mod redox;

#[cfg(target_os = "linux")]
pub use linux::{Function, adopt, connect, let_inherit, report_ready};
#[cfg(target_os = "redox")]
pub use redox::{Function, adopt, connect, let_inherit, report_ready};
