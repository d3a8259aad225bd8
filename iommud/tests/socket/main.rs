//! The socket transport: the real `iommud` on simulated hardware, with clients that do and do not mean well.
#![cfg(target_os = "linux")]

#[macro_use]
#[path = "../vendor/mod.rs"]
mod vendor;

mod child;
mod ctl;
mod devices;
mod edu;
mod faults;
mod flooding;
mod framing;
mod gone;
mod handles;
mod kept;
mod malformed;
mod raw;
mod registered;
mod rig;
mod start;
mod users;
mod without_iommu;
