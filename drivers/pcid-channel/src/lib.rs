//! What a driver says to pcid over its channel, as far as the programs here need it.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`config`] | [`Config`]: a function as pcid describes it |
//! | [`ask`](mod@ask) | [`ask()`](ask::ask) and [`read_config()`]: requests and their answers |
//! | `inherited` | `Inherited`: the channel that this process was started with, on Redox alone |
//! | [`bar`] | where in the channel a BAR is mapped |
//! | [`error`] | [`Error`]: why pcid could not be understood |
//!
//! pcid-spawner opens `/scheme/pci/ADDRESS/channel` and leaves it open for the driver, under the number in
//! [`CHANNEL_VARIABLE`] (base 9e128703, `drivers/pcid-spawner/src/main.rs`; `drivers/pcid/src/scheme.rs` and
//! `driver_interface/mod.rs` for what is said). There is one conversation to a channel, whoever has duplicates of
//! it: as long as one answer has not been read, every other request is refused. So one process at a time may use
//! it, and reads each answer whole.
#![forbid(unsafe_code)]

pub mod ask;
pub mod bar;
pub mod config;
pub mod error;
#[cfg(target_os = "redox")]
mod inherited;

pub use ask::{ask, read_config};
pub use config::Config;
pub use error::Error;
#[cfg(target_os = "redox")]
pub use inherited::Inherited;

/// The environment variable in which pcid-spawner gives a driver the number of its channel.
pub const CHANNEL_VARIABLE: &str = "PCID_CLIENT_CHANNEL";

/// The environment variable in which pcid-spawner and init name the pipe on which they wait for a driver.
pub const READY_VARIABLE: &str = "INIT_NOTIFY";
