//! The IOMMU daemon, and the program that asks it.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`platform`] | what lends the engine memory, registers and a clock, one for each kind of machine |
//! | [`transport`] | what carries clients' requests to the service, one for each system |
//! | [`policy`] | what the administrator decides, read from a file |
//! | [`daemon`] | the program `iommud`: from the command line to serving |
//! | [`ctl`] | the program `iommuctl`: the daemon's reports, read by a client |

pub mod ctl;
pub mod daemon;
pub mod platform;
pub mod policy;
pub mod transport;
