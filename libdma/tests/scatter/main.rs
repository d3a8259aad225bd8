//! Scatter lists on simulated machines: either vendor's IOMMU, and none.
#![cfg(target_os = "linux")]

mod failing;
mod limits;
mod moving;
