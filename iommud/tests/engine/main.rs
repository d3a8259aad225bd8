//! The engine on simulated hardware: what devices reach, and what they do not.
//!
//! The simulator is written from the specification and apart from the engine; it caches as much as the
//! specification allows for as long as it allows, and counts accesses to memory that was freed.
#![cfg(target_os = "linux")]

#[macro_use]
#[path = "../vendor/mod.rs"]
mod vendor;

mod adopting;
mod amdvi;
mod at_hand;
mod bent;
mod bring_up;
mod chains;
mod deferred;
mod empty_tables;
mod failing;
mod gathered;
mod growth;
mod handover;
mod identity;
mod interrupts;
mod invalidation;
mod isolation;
mod knobs;
mod leaks;
mod lies;
mod many_units;
#[path = "../mortal/mod.rs"]
mod mortal;
mod overtaking;
mod reach;
mod rig;
mod stores;
mod topology;
mod transfer;
mod watched;
mod widths;
mod without_iommu;
