//! IVRS: AMD's table of IOMMUs, of the devices behind them, and of memory that firmware reserves.
//!
//! The layouts are those of section 5.2 of the AMD I/O Virtualization Technology (IOMMU) Specification, 48882;
//! `SOURCES.md` names what they were compared with.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`table`] | the whole table, [`Ivrs::parse`](table::Ivrs::parse), and what was passed over |
//! | [`info`] | IVinfo: what all IOMMUs of the machine have in common |
//! | [`mod@unit`] | IVHD: an IOMMU |
//! | [`entry`] | IVHD device entries: whose requests it translates, and under which ids |
//! | [`named`] | the names of devices that ACPI enumerates |
//! | [`settings`] | what firmware asks to be set in a device's table entry |
//! | [`memory`] | IVMD: memory that devices must reach from the start |
//! | [`coverage`] | which unit a device is behind, its alias, and which memory is reserved for it |
//! | [`kind`] | what kinds of block and entry there are |
//! | [`error`] | what refuses the whole table |
//!
//! # One IOMMU, several blocks
//!
//! Newer firmware describes an IOMMU up to three times, for old and new systems alike. Blocks that name the
//! same PCI function are one IOMMU: the block of the richest type is used (40h, else 11h, else 10h), and the
//! others are skipped if they put its registers at the same place.
//!
//! # What a fault refuses
//!
//! As with [DMAR](super::dmar): *the whole table*, if a length is wrong anywhere, and *the block or entry
//! alone*, if its lengths are right and what it says makes no sense. It is listed in
//! [`Ivrs::refused`](table::Ivrs::refused) with its place and the reason. The outcome is the safe one:
//!
//! - A refused unit still covers the devices of its entries: they are
//!   [`Coverage::Refused`].
//! - A refused device entry leaves its devices without a unit that they can be attached to. The device table
//!   of the unit that they are really behind has no translation for them, and default deny (rule R1) stops
//!   what they do.
//! - A refused memory block is not mapped: its devices lack what firmware meant for them.
//!
//! Reserved fields are ignored, and so are blocks and entries of types that are not known.

pub mod coverage;
pub mod entry;
pub mod error;
pub mod info;
pub mod kind;
pub mod memory;
pub mod named;
mod raw;
#[cfg(test)]
#[path = "tests/sample.rs"]
mod sample;
pub mod settings;
pub mod table;
pub mod unit;
mod walk;

pub use super::{Coverage, LengthFault, RegionFault, UnitFault};
pub use entry::{DeviceEntry, EntryFault, EntryKind, SpecialKind};
pub use error::IvrsError;
pub use info::IvInfo;
pub use kind::{BlockKind, IvhdKind, IvmdKind};
pub use memory::{Ivmd, IvmdFault, IvmdFlags};
pub use named::{AcpiId, NamedDevice, Uid};
pub use settings::{DteSettings, ExtendedSettings};
pub use table::{Ivrs, Refusal, Refused, Skipped, SkippedWhat};
pub use unit::{Ivhd, IvhdAttributes, IvhdFeatures, IvhdFlags, IvhdInfo, Reported};
