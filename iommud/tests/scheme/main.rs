//! The Redox transport as far as it runs anywhere: the desk, before a service on simulated hardware.
#![cfg(target_os = "linux")]

#[macro_use]
#[path = "../vendor/mod.rs"]
mod vendor;

mod memory;
mod names;
mod pending;
mod rig;
