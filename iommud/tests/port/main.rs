//! `libdma::Dma`: a driver process that was handed its device, as base's drivers will be by `iommu-run`.
#![cfg(target_os = "linux")]

#[macro_use]
#[path = "../vendor/mod.rs"]
mod vendor;

#[path = "../socket/edu.rs"]
#[allow(dead_code, reason = "the tests of the socket use the rest")]
mod edu;
#[path = "../socket/rig.rs"]
#[allow(dead_code, reason = "the tests of the socket use the rest")]
mod rig;

mod driver;
mod handed;
mod memory;
mod refused;
