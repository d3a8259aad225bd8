//! The program `iommuctl`: the daemon's reports, read by a client.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | [`Options`]: the command line |
//! | [`run`] | [`run()`](run::run): from there to the exit code |
//! | [`mod@capture`] | this machine's tables, as files |
//! | [`client`] | [`Client`]: reading a node |
//! | [`plan`] | what iommud would do with a machine, told from its tables |
//! | [`error`] | [`Error`]: why there is no report, and what to do |

pub mod capture;
pub mod client;
pub mod error;
pub mod options;
pub mod plan;
pub mod run;

pub use client::Client;
pub use error::Error;
pub use options::Options;
