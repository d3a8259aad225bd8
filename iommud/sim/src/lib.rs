//! Simulated hardware: IOMMUs, a device that does DMA, and the machine that ties them together.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`memory`] | [`Memory`]: what simulated physical memory is, and [`HeapMemory`] for tests |
//! | [`dram`] | what a unit that does not snoop sees: memory as it was when last flushed |
//! | [`vtd`] | Intel VT-d: registers, tables, caches, queue, faults |
//! | [`amdvi`] | AMD-Vi: registers, tables, caches, command buffer, event log |
//! | [`pace`] | how fast hardware is, and whether it is there |
//! | [`request`] | what goes over the bus |
//! | [`pci`] | configuration space |
//! | [`edu`] | a device like QEMU's `edu` |
//! | [`machine`] | [`Machine`]: all of it, with the ACPI table that describes it |
//!
//! # Rules of this crate
//!
//! It is written from the Intel VT-d Architecture Specification (D51397-011, revision 3.1; section numbers
//! are that revision's) and the AMD I/O Virtualization Technology Specification (48882), and shares no type
//! and no constant with `iommu-engine`: an encoder that is checked against itself is not checked. Where the
//! specification lets hardware choose, the choice here is the one that shows a mistake: what a unit has
//! cached, stale or not, it keeps until it is told to drop it; a page-selective invalidation drops a large
//! page only if its mask covers the page; a cache line that was never flushed reads as garbage to a unit
//! that does not snoop. What software must not do and hardware cannot answer is kept in a list of
//! [`vtd::Violation`]s or [`amdvi::Violation`]s.
//!
//! Time is a number that the caller moves forward with [`Machine::advance`]; nothing here waits.
#![forbid(unsafe_code)]

pub mod amdvi;
pub mod dram;
pub mod edu;
pub mod machine;
pub mod memory;
pub mod pace;
pub mod pci;
pub mod request;
pub mod vtd;

pub use machine::{Blocked, Machine, MachineConfig};
pub use memory::{HeapMemory, Memory};
