//! The program `iommud`: from the command line to serving.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | [`Options`]: the command line |
//! | [`policy`] | the policy that the daemon acts by |
//! | [`run`] | [`run()`](run::run): from there to the end (Linux) |
//! | [`bring_up`] | waiting for the units, and what became of each |
//! | [`hand_over`] | what the keeper leaves to the process that serves (Redox) |
//! | [`keeping`] | what the keeper holds, and when it starts the next process (Redox) |
//! | [`log`] | lines on standard error |
//! | [`error`] | [`Error`]: why the daemon ended, and its exit code (Linux) |
//! | `redox` | the keeper, the process that serves, and why they ended (Redox) |

pub mod bring_up;
#[cfg(target_os = "linux")]
pub mod error;
pub mod hand_over;
pub mod keeping;
pub mod log;
pub mod options;
pub mod policy;
#[cfg(target_os = "redox")]
pub mod redox;
#[cfg(target_os = "linux")]
pub mod run;

#[cfg(target_os = "linux")]
pub use error::Error;
pub use options::Options;
