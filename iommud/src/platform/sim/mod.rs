//! A laptop: the whole machine is simulated, and only memory is real.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`machine`] | [`SimPlatform`]: the whole platform |
//! | [`memory`] | [`SimMemory`]: what is at each simulated physical address |
//! | [`frames`] | which table frames are given out |
//! | `runs` | buffer runs, each in a memfd |
//! | [`pages`] | at which physical addresses a buffer run is put |
//! | `reserved` | the memory of regions that firmware reserves |
//! | [`shared`] | a memfd, mapped: the only `unsafe` here |
//! | `in_process` | drivers in the same process: tests |
//! | [`clock`] | real time, or a test's |
//!
//! # How it hangs together
//!
//! ```text
//!   engine ── Platform ──> SimPlatform ──> iommu_sim::Machine ── units, edu devices, config space
//!      │                        │                  │
//!      └ table(): the words     ├ runs: a memfd    └ reads tables and queues, does DMA, by physical
//!        themselves             │ each             ┌ address
//!                               └──> SimMemory <───┘
//! ```
//!
//! The engine writes tables through [`table`](iommu_engine::platform::TableFrames::table), which gives it the
//! words of the mapped arena; the simulated unit reads the same words by their physical address when a
//! device does DMA. A client gets the memfd of its run and nothing else
//! ([`SimPlatform::run_fd`]); it is sealed, so that it cannot be cut short under the daemon.
//!
//! Physical addresses are made up:
//!
//! | from | what is there |
//! | --- | --- |
//! | 0x7e000000 | 1 MiB that firmware keeps, for tables that a boot loader left behind |
//! | as configured | the regions that firmware reserves (RMRR) |
//! | 0x1_0000_0000 | the table arena, 64 MiB; its first frame is the header |
//! | 0x2_0000_0000 | buffer pages, scattered: rarely are two of a run side by side |
//! | 0x10_0000_0000 | runs of a multiple of 2 MiB, in aligned pieces of 2 MiB, never side by side |
//! | 0x18_0000_0000 | runs in one piece, each in 4 MiB of its own |
//!
//! Freed frames and pages are filled with [`memory::POISON`] and given out again soon, last freed first. An
//! access of the machine to one that is free is counted ([`Usage::freed_accesses`]): it means that
//! something was freed before the invalidation was confirmed (rule R2).
//!
//! Simulated time passes whenever somebody asks the platform for the time, reads or writes a register, or
//! calls [`SimPlatform::tick`]: no thread runs behind anybody's back.

pub mod clock;
pub mod frames;
mod in_process;
pub mod machine;
pub mod memory;
pub mod pages;
mod reserved;
mod runs;
pub mod shared;

pub use machine::{SimPlatform, Usage};
pub use memory::SimMemory;
pub use runs::MemoryId;
