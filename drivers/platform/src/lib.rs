//! What the drivers here need of the system they run on, Linux or Redox.
//!
//! | name | what it is |
//! | --- | --- |
//! | [`Function`] | the device's PCI function: finding it, switching it on, its registers |
//! | [`passed`], [`open`] | the device at iommud: its handle passed to this process, or opened by it |
//! | [`connect`], [`lent`], [`let_inherit`], [`wait_readable`] | handles of iommud's as the system has them |
//! | [`report_ready`] | telling whoever started the driver that it is ready |
//! | [`number`] | numbers on a command line |
//! | [`Error`] | why something failed |
//!
//! | module | what is in it |
//! | --- | --- |
//! | `linux` | a process in a Linux guest: sysfs, and handles that are sockets |
//! | `redox` | a process on Redox: pcid's channel, and handles of the `iommu` scheme |
//! | `session` | what is the same on both |
//! | `variable` | variables that name descriptors, each taken once |
//!
//! Either system's module has the same names, re-exported here.

mod error;
#[cfg(target_os = "linux")]
mod linux;
mod number;
#[cfg(target_os = "redox")]
mod redox;
mod session;
mod variable;

pub use error::Error;
#[cfg(target_os = "linux")]
pub use linux::{Function, connect, let_inherit, report_ready, wait_readable};
pub use number::number;
#[cfg(target_os = "redox")]
pub use redox::{Function, connect, let_inherit, report_ready, wait_readable};
pub use session::{LENT_VARIABLE, lent, open, passed};

/// How many BARs a function has.
pub const BARS: usize = 6;

/// How many words of configuration space there are that every function has (PCI 3.0, 6.1).
pub const WORDS: usize = 64;
