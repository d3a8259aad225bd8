//! The rigs: what builds the programs, boots them and judges what they say.
//!
//! `tests/run` starts the binary `rig`, which runs the suites in [`suite`]. The guest agent shares
//! [`process`] and [`case`], so that both sides of a serial line agree on one form of words.

#![forbid(unsafe_code)]

pub mod boot;
pub mod cargo;
pub mod case;
pub mod cpio;
pub mod debian;
pub mod libtest;
pub mod process;
pub mod qemu;
pub mod report;
pub mod suite;
