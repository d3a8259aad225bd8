//! DMA buffers for user-space drivers.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`protocol`] | what drivers and `iommud` say to each other |
#![no_std]

extern crate alloc;

pub mod protocol;

pub use dma_types::{Access, CpuAddr, Iova, PciAddress, PhysAddr};
