//! What firmware says of the machine: ACPI tables, parsed and judged.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`sdt`] | the header that every table starts with |
//! | [`dmar`] | Intel's table of remapping units and reserved memory |
//! | [`ivrs`] | AMD's |
//! | [`Coverage`], [`UnitFault`], [`RegionFault`], [`LengthFault`] | what both have |
//!
//! Tables are hostile input (rule R5): every length and count is checked before it is believed.

mod coverage;
pub mod dmar;
pub mod ivrs;
mod region;
mod registers;
pub mod sdt;
mod walk;

pub use coverage::Coverage;
pub use region::RegionFault;
pub use registers::UnitFault;
pub use walk::LengthFault;
