//! The rigs: what builds the programs, boots them and judges what they say.
//!
//! `tests/run` starts the binary `rig`, which runs the suites in [`suite`].

#![forbid(unsafe_code)]

pub mod bench;
pub mod boot;
pub mod cargo;
pub mod console;
pub mod cpio;
pub mod debian;
pub mod disk;
pub mod fuzz;
pub mod libtest;
pub mod qemu;
pub mod report;
pub mod suite;
