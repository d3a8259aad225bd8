//! Everything that knows IOMMU hardware.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`engine`] | [`Engine`]: the machine's IOMMUs, devices and domains, as one |
//! | [`machine`] | what the machine is made of |
//! | [`pci`] | its PCI functions |
//! | [`topology`] | which of them can be told apart |
//! | [`domain`] | I/O address spaces |
//! | [`completion`] | promises that hardware will confirm |
//! | [`retired`] | what is out of use but may not be used again yet |
//! | [`error`] | why the engine could not do what it was asked |
//! | [`platform`] | what the engine needs from the world, and all of it |
//! | [`delegate!`] | a platform made of parts that are each some of it |
//! | [`policy`] | what the administrator decides |
//! | [`quotas`] | how much may be held at a time |
//! | [`payer`] | on whose account it is what operations take |
//! | [`acpi`] | what firmware says: the tables DMAR (VT-d) and IVRS (AMD-Vi) |
//! | [`table`] | the page-table algorithm, over entry formats |
//! | [`iova`] | which I/O addresses are free |
//! | [`fault`] | a request that a unit refused, in words |
//! | [`mod@unit`] | one IOMMU, whoever made it |
//! | [`vtd`] | Intel VT-d: its registers, tables and requests |
//! | [`amdvi`] | AMD-Vi: its registers, tables and commands |
//! | [`registers`] | device registers as typed values |
//! | [`blocks`] | pages in numbers that are a power of two |
//! | [`ledger`] | what must survive the daemon, written in the arena |
//! | [`records`] | what the engine writes there |
//! | [`reserve`] | memory that is set aside for buffers in one piece |
//! | [`segments`] | cutting a piece out of physical memory |
//!
//! The engine has no I/O of its own and never waits: an operation that hardware must confirm gives a
//! ticket, and [`platform`] is polled for it. It contains no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod amdvi;
pub mod blocks;
pub mod completion;
mod delegate;
pub mod domain;
pub mod engine;
pub mod error;
#[cfg(test)]
mod fakes;
pub mod fault;
mod field;
pub mod iova;
pub mod ledger;
pub mod machine;
mod page_map;
pub mod payer;
pub mod pci;
pub mod platform;
pub mod policy;
pub mod quotas;
pub mod records;
pub mod registers;
pub mod reserve;
pub mod retired;
pub mod segments;
mod slab;
pub mod table;
pub mod topology;
pub mod unit;
pub mod vtd;

pub use engine::Engine;
