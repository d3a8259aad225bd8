//! What firmware says of the machine: ACPI tables, parsed and judged.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`sdt`] | the header that every table starts with |
//! | [`dmar`] | Intel's table of remapping units and reserved memory |
//!
//! Tables are hostile input (rule R5): every length and count is checked before it is believed.

pub mod dmar;
pub mod sdt;
