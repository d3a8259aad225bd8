//! The IOMMU daemon.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`platform`] | what lends the engine memory, registers and a clock, one for each kind of machine |

pub mod platform;
