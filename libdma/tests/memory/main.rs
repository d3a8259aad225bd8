//! Memory that a driver shares with its device, on simulated machines of both vendors and without an IOMMU.
#![cfg(target_os = "linux")]

mod coherent;
mod declared;
mod windows;
