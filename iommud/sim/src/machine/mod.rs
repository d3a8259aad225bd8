//! The machine: memory, units, functions and devices, and the table that describes them.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`config`] | [`MachineConfig`]: what is in a machine |
//! | `topology` | which function is behind which bridge and unit |
//! | `dma` | requests from devices, and [`Blocked`] |
//! | `dmar` | the ACPI DMAR table |
//! | [`access`] | [`Machine`]: what CPUs do to it, and the passing of time |

pub mod access;
pub mod config;
mod dma;
mod dmar;
mod topology;

pub use access::Machine;
pub use config::{EduConfig, MachineConfig, PortConfig, ReservedRegion, UnitConfig, UnitScope};
pub use dma::Blocked;
