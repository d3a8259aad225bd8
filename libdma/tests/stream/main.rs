//! Streaming memory on simulated machines: either vendor's IOMMU, and none.
#![cfg(target_os = "linux")]

mod attributes;
mod batches;
mod bouncing;
mod failing;
mod lent;
mod moving;
mod revoking;
mod slices;
