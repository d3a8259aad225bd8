//! A simulated machine with iommud's service on it, all in this process: what libdma's examples and tests run on.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `machine` | [`Machine`]: a machine of either vendor or without an IOMMU, a service, and the devices' side of memory |
//! | `tap` | [`Tap`]: the transport, which counts requests and fails those that a test wants to fail |
//!
//! A crate that the machine is built of, libdma above all, has this one as a dev-dependency. Cargo allows that for
//! examples in documentation and for tests in `tests/`; unit tests in the crate itself would see two crates of its
//! name.
#![cfg(target_os = "linux")]

mod machine;
mod tap;

pub use iommud::platform::sim::Usage;
pub use machine::{Machine, ROOT, Shared, edu, read, second_edu};
pub use tap::Tap;
