//! What the agents in the guests share, on Linux and on Redox, and what the rig reads of them, so that both sides of
//! a serial line agree on one form of words.
//!
//! An agent has [cases](run), each run as a process of its own, which start the [programs] under test, read what
//! `iommuctl` [reports], and end with a [failure] in words or with none.

#![deny(unsafe_code)]

pub mod bench;
pub mod case;
pub mod disk;
pub mod failure;
pub mod inherit;
pub mod machine;
pub mod measure;
pub mod process;
pub mod programs;
pub mod reports;
#[cfg(feature = "libdma")]
pub mod requests;
pub mod run;
pub mod signal;
pub mod tally;
pub mod traces;
