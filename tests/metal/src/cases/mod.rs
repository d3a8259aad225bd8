//! The cases, by suite.
//!
//! | suite | what it shows, and on which machine |
//! | --- | --- |
//! | [`bare`] | the ground that all others stand on; every machine |
//! | [`vtd`] | the rig sees what VT-d does, without the engine; a machine with VT-d |
//! | [`amdvi`] | the same for AMD-Vi; a machine with AMD-Vi |
//! | [`engine`] | engine, service and libdma on QEMU's unit; a machine with VT-d |
//! | [`none`] | a machine without IOMMU |
//! | [`bench`](mod@bench) | no case, but what operations take; see `tests/run bench` |
//! | [`crash`] | a crash is never a hang; every machine, one case a boot |

pub mod amdvi;
pub mod bare;
pub mod bench;
pub mod crash;
pub mod engine;
pub mod none;
pub mod vtd;

use crate::harness::Suite;

/// Every suite there is.
pub static SUITES: [Suite; 11] = [
    bare::SUITE,
    vtd::SUITE,
    amdvi::SUITE,
    engine::SUITE,
    engine::GROUP,
    engine::APART,
    engine::SHARED,
    none::SUITE,
    none::SHARED,
    bench::SUITE,
    crash::SUITE,
];
