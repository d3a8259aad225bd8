//! Base's `common::dma::Dma`, over a device that iommud confines.
//!
//! A driver of Redox's base tree takes its memory from `common::dma::Dma<T>` (base 9e128703,
//! `drivers/common/src/dma.rs`). [`Dma`] has the same names, signatures and meaning, so that such a driver moves
//! over by importing this one; [`Dma::physical`] then returns what the device must be given, which is an I/O
//! address. [`PORTING.md`](https://gitlab.redox-os.org/redox-os/iommud/-/blob/main/libdma/PORTING.md), beside this crate,
//! shows a port step by step.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `value` | [`Dma`]: memory of a type |
//! | `memory` | the memory beneath, and where it comes from |
//! | `plain` | contiguous memory without an IOMMU, on Redox alone |
//! | `error` | [`DmaError`]: why there is no memory |
//!
//! # Where the memory comes from
//!
//! The environment variable [`DEVICE_VARIABLE`](crate::handle::DEVICE_VARIABLE) says it, once for the process.
//! `iommu-run` sets it.
//!
//! | `IOMMU_DEVICE` | memory |
//! | --- | --- |
//! | a number | the device whose handle is the inherited descriptor of this number: that of [`Device::handed`](crate::Device::handed). It is closed on exec from then on |
//! | `none` | physically contiguous memory of the memory scheme, as base takes it. The device is **not** confined |
//! | not set, or anything else | none: every allocation fails, and standard error says why, once |
//!
//! Never is memory unconfined because iommud was not there: only `none` makes it so.
//!
//! # What is unsound here
//!
//! [`Dma`] keeps what base's drivers are written to, and with it three things that Rust does not allow for:
//!
//! - it lends `&T` and `&mut T` to memory that the device may write meanwhile. The compiler may read once what was
//!   meant to be read twice, or the other way round. A driver that polls such memory must read it by
//!   `read_volatile`, as it had to before;
//! - the device may write any bytes, and `T` may be a type for which not all bytes are values (`bool`, an enum, a
//!   reference). Such a value is undefined behaviour before any check of it can run;
//! - [`assume_init`](Dma::assume_init) declares zeroes to be a `T`.
//!
//! All that is the driver's own danger: what the *device* can reach is kept by hardware. New code should use
//! [`Coherent`](crate::Coherent) and [`Buffer`](crate::Buffer), which have none of the three.

mod error;
mod memory;
#[cfg(target_os = "redox")]
mod plain;
mod value;

pub use error::DmaError;
pub use memory::check;
pub use value::Dma;
