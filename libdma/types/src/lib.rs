//! The words every room of the house shares.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`address`] | [`PhysAddr`], [`Iova`] and [`CpuAddr`]: one type for each address space |
//! | [`access`] | [`Access`]: what a device may do with memory |
//! | [`cache`] | [`CacheType`]: how CPUs cache memory |
//! | [`pci`] | [`PciAddress`] and [`SourceId`]: who a device is |
//! | [`span`] | [`Span`]: how people are shown a span of time |
//!
//! There is no behaviour here and no dependency: the engine, the protocol and the drivers all
//! stand on this crate, and it stands on `core` alone.
#![no_std]
#![forbid(unsafe_code)]

pub mod access;
pub mod address;
pub mod cache;
pub mod pci;
pub mod span;

pub use access::Access;
pub use address::{CpuAddr, Iova, PAGE_SIZE, PhysAddr};
pub use cache::CacheType;
pub use pci::{ParsePciAddressError, PciAddress, SourceId};
pub use span::Span;
