//! The machine: memory, units, functions and devices, and the table that describes them.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`config`] | [`MachineConfig`]: what is in a machine |
//! | `topology` | which function is behind which bridge and unit, and how its requests are signed |
//! | `units` | the units, and which functions are there |
//! | `dma` | requests from devices, and [`Blocked`] |
//! | `peers` | requests that reach another device without ever getting to a unit |
//! | [`lies`] | hardware that lies |
//! | `acpi` | what all ACPI tables begin with |
//! | `dmar` | the ACPI DMAR table |
//! | `ivrs` | the ACPI IVRS table |
//! | [`access`] | [`Machine`]: what CPUs do to it, and the passing of time |

pub mod access;
mod acpi;
pub mod config;
mod dma;
mod dmar;
mod ivrs;
pub mod lies;
mod peers;
mod topology;
mod units;

pub use access::Machine;
pub use config::{
    AmdviUnitConfig, BridgeConfig, EduConfig, FunctionConfig, IvhdKind, MachineConfig,
    ReservedRegion, UnitConfig, UnitScope,
};
pub use dma::Blocked;
pub use lies::{Confirms, Lie};
