//! The program `iommud`: from the command line to serving.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | [`Options`]: the command line |
//! | [`policy`] | the policy that the daemon acts by |
//! | [`bring_up`] | waiting for the units, and what became of each |
//! | [`hand_over`] | what the keeper leaves to the process that serves |
//! | [`keeping`] | what the keeper holds, and when it starts the next process |
//! | [`log`] | lines on standard error |
//! | `linux` | the keeper, the process that serves, and why they ended (Linux) |
//! | `redox` | the same (Redox) |

pub mod bring_up;
pub mod hand_over;
pub mod keeping;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod log;
pub mod options;
pub mod policy;
#[cfg(target_os = "redox")]
pub mod redox;
pub use options::Options;
