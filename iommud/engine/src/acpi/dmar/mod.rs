//! DMAR: Intel's table of remapping units and of memory that firmware reserves for devices.
//!
//! Section numbers are those of chapter 8, "BIOS Considerations", of the Intel Virtualization Technology
//! for Directed I/O Architecture Specification, revision 5.10 (D51397-018).
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`table`] | the whole table, [`Dmar::parse`](table::Dmar::parse), and what was passed over |
//! | [`mod@unit`] | DRHD: a remapping unit and whose requests it translates |
//! | [`reserved`] | RMRR: memory that a device must reach from the start |
//! | [`scope`] | device scopes: which devices a structure means |
//! | [`coverage`] | which unit a device is behind, and which memory is reserved for it |
//! | [`kind`] | what kinds of structure there are |
//! | [`error`] | what refuses the whole table |
//!
//! # What a fault refuses
//!
//! *The whole table*, if a length is wrong anywhere: a table, structure or scope that is shorter than its
//! own fields or longer than what holds it, or a path of half a step. Nothing after such a length can be
//! found with certainty, and a unit that is not seen is not turned on: what is behind it would go on
//! reaching all of memory, while it looked confined. Half a table is therefore worse than none. (Linux is
//! milder with one case, a structure of length zero: it stops there and keeps what it has.)
//!
//! *The structure alone*, if its lengths are right and what it says makes no sense: a unit without a
//! usable register address, a reserved region that is no range of pages, a scope that names no function.
//! It is listed in [`Dmar::refused`](table::Dmar::refused) with its place and the reason, so that it can
//! be shown. The rest is used, and in each case the outcome is the safe one:
//!
//! - A refused unit still covers the devices of its scopes. They are
//!   [`Coverage::Refused`] and are never handed to the unit of all the rest,
//!   whose tables they do not pass.
//! - A refused region is not mapped: the device lacks what firmware meant for it.
//! - A refused scope, and one that cannot be followed to a device, may leave its device to the wrong unit.
//!   The tables of the right one then lack it, and default deny (rule R1) stops what it does.
//!
//! Reserved fields are ignored, as the specification asks, and so are structures and scopes of kinds that
//! are not known.

pub mod coverage;
pub mod error;
pub mod kind;
mod raw;
pub mod reserved;
pub mod scope;
pub mod table;
pub mod unit;
mod walk;

pub use super::{Coverage, LengthFault, RegionFault, UnitFault};
pub use coverage::BusesBehind;
pub use error::DmarError;
pub use kind::StructureKind;
pub use reserved::Rmrr;
pub use scope::{DeviceScope, PathStep, ResolveError, ScopeFault, ScopeKind};
pub use table::{Dmar, DmarFlags, Refusal, Refused, Skipped};
pub use unit::Drhd;
