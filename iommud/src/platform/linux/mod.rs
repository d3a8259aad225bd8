//! A Linux guest in QEMU: the programs as processes on an emulated IOMMU, for the tests.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`machine`] | [`Linux`]: the whole platform |
//! | [`keeper`] | the keeper, as the process that serves knows it |
//! | [`parcel`] | what goes between the two |
//! | [`huge_pages`] | a memfd of huge pages, mapped, and where it is in physical memory |
//! | [`pagemap`] | where a page of this process is in physical memory |
//! | [`tables`] | the arena of table frames |
//! | [`runs`] | clients' buffers |
//! | [`registers`] | device memory, by `/dev/mem` |
//! | [`config_space`] | PCI configuration space, by sysfs |
//! | `resource` | where the registers of PCI functions are |
//! | [`iomem`] | which physical memory is RAM |
//! | [`acpi`] | the firmware's tables, by sysfs |
//!
//! # What it asks of the guest
//!
//! The kernel must leave the IOMMU alone (`intel_iommu=off`) and have huge pages to give (`hugepages=`), and
//! the daemon must have all of root's rights. Memory comes as hugetlb memfds because their pages stay where
//! they are: nothing swaps, merges or moves them on a guest that does nothing else.
//!
//! A process has no interrupt vectors there, so that units have no message to send: they are polled for faults.
//!
//! # What it is not
//!
//! A confinement of processes. A driver here has root's rights too, and with them `/dev/mem`; and who holds
//! the descriptor of a buffer that iommud allocated can punch a hole into it, which gives its pages back to Linux while
//! the device still reaches them. (Memory that a driver registers is sealed against that: see
//! [`sealed`](super::sealed).) What this platform shows is that devices are confined.

pub mod acpi;
pub mod config_space;
pub mod huge_pages;
pub mod iomem;
pub mod keeper;
pub mod machine;
pub mod pagemap;
pub mod parcel;
pub mod registers;
mod resource;
pub mod runs;
pub mod tables;

pub use machine::{Linux, OpenError};
