//! The program `iommud`: from the command line to serving.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | [`Options`]: the command line (Linux) |
//! | [`run`] | [`run()`](run::run): from there to the end (Linux) |
//! | [`bring_up`] | waiting for the units, and what became of each |
//! | [`log`] | lines on standard error |
//! | [`error`] | [`Error`]: why the daemon ended, and its exit code (Linux) |
//! | `redox` | from the start to the end, and why it ended (Redox) |

pub mod bring_up;
#[cfg(target_os = "linux")]
pub mod error;
pub mod log;
#[cfg(target_os = "linux")]
pub mod options;
#[cfg(target_os = "redox")]
pub mod redox;
#[cfg(target_os = "linux")]
pub mod run;

#[cfg(target_os = "linux")]
pub use error::Error;
#[cfg(target_os = "linux")]
pub use options::Options;
