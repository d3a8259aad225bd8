//! The engine's platform on this machine: nothing between it and the hardware.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`machine`] | [`Metal`], which is all of them together |
//! | [`frames`] | frames for tables that hardware walks |
//! | [`runs`] | buffers, scattered in memory on purpose |
//! | [`registers`] | windows of device registers |
//! | [`config`] | PCI configuration space, and where devices are |
//! | [`acpi`] | the firmware's tables |
//! | [`clock`] | the time |

pub mod acpi;
pub mod clock;
pub mod config;
pub mod frames;
pub mod machine;
pub mod registers;
pub mod runs;

pub use machine::{InUse, Metal};
