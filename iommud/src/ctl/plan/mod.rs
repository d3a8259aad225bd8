//! `iommuctl plan`: what iommud would do with a machine, told from its tables alone.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`dump`] | [`Dump`]: PCI functions as text |

pub mod dump;

pub use dump::Dump;
