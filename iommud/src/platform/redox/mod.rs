//! The product: Redox, through its memory, irq, pci and acpi schemes.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `machine` | `Redox`: the whole platform |
//! | `object` | memory objects, in which all is that hardware reaches: they outlive the process |
//! | `anchor` | what keeps them when the keeper, too, is killed |
//! | `area` | where all that lies, in the process and in the object |
//! | `memory` | the memory scheme: contiguous memory, its physical addresses, registers' pages |
//! | `page_pool` | an arena: chunks that come and go, and pages out of them |
//! | `frames` | the arena of table frames |
//! | `runs` | clients' buffers |
//! | `foreign` | memory that clients supply |
//! | `plain` | whether that is all there, and all plain memory |
//! | `closing` | giving up descriptors without waiting for it |
//! | `registers` | device memory, uncached |
//! | `config_space` | PCI configuration space, memory-mapped; `mcfg` says where it lies |
//! | `irq` | the vector by which units say that they have faults |
//! | `bars` | where functions' registers are, and how long: what pcid found before there were drivers |
//! | `functions` | PCI functions that are the daemon's own: AMD's units |
//! | `acpi` | the firmware's tables |
//! | `random` | entropy |
//!
//! What runs on any system is compiled for tests on the host as well; the rest is for Redox alone.

pub mod acpi;
pub mod area;
pub mod bars;
pub mod irq;
pub mod mcfg;
pub mod plain;

#[cfg(target_os = "redox")]
pub mod anchor;
#[cfg(target_os = "redox")]
pub mod closing;
#[cfg(target_os = "redox")]
pub mod config_space;
#[cfg(target_os = "redox")]
pub mod foreign;
#[cfg(target_os = "redox")]
pub mod frames;
#[cfg(target_os = "redox")]
pub mod functions;
#[cfg(target_os = "redox")]
pub mod machine;
#[cfg(target_os = "redox")]
pub mod memory;
#[cfg(target_os = "redox")]
pub mod object;
#[cfg(target_os = "redox")]
pub mod page_pool;
#[cfg(target_os = "redox")]
pub mod random;
#[cfg(target_os = "redox")]
pub mod registers;
#[cfg(target_os = "redox")]
pub mod runs;

#[cfg(target_os = "redox")]
pub use anchor::AnchoredObject;
#[cfg(target_os = "redox")]
pub use machine::{Heir, OpenError, Redox};
#[cfg(target_os = "redox")]
pub use object::MemoryObject;
