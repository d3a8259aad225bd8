//! `iommuctl plan`: what iommud would do with a machine, told from its tables alone.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`input`] | [`Input`]: what a plan is made from |
//! | [`dump`] | [`Dump`]: PCI functions as text |
//! | [`live`] | what this machine says of itself |
//! | [`report`] | [`Report`]: what is told |

pub mod dump;
pub mod input;
pub mod live;
pub mod report;

pub use dump::{Dump, DumpError};
pub use input::Input;
pub use report::Report;
