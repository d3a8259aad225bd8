//! Failure is ordinary: each request of each operation fails in each way, and the real causes of failure are met.
//!
//! | module | what fails |
//! | --- | --- |
//! | `trials` | how an operation is tried, with each of its requests failing in turn |
//! | `opening` | opening devices, and what is asked of them |
//! | `allocating` | buffers, coherent memory, pools, registered and declared memory |
//! | `causes` | the real causes: a small mask, little memory, quotas, sessions that have ended |
//! | `mapping` | mappings, in a device's own addresses and in domains |
//! | `streaming` | streaming buffers, slices, scatter lists and raw streams |
//! | `sharing` | what is passed on to others |
#![cfg(target_os = "linux")]
#![allow(clippy::result_large_err, reason = "what failed is given back with its error")]

mod allocating;
mod causes;
mod mapping;
mod opening;
mod sharing;
mod streaming;
mod trials;
