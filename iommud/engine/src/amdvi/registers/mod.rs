//! The registers of an AMD-Vi unit (section 3.4), each a type with named fields.
//!
//! | module | registers |
//! | --- | --- |
//! | [`file`](self::RegisterFile) | where they are, and access to them |
//! | `tables` | [`DeviceTableBase`] and [`SegmentBase`]: where the device table is |
//! | `rings` | [`CommandBufferBase`], [`EventLogBase`] and how far each ring is |
//! | `control` | [`Control`]: what is on |
//! | `status` | [`Status`]: what runs, and what happened |
//! | `exclusion` | [`ExclusionBase`] and [`ExclusionLimit`] |
//! | `features` | [`ExtendedFeatures`]: what the unit can do |
//!
//! All are 64 bits wide. Not here are the registers of what is never turned on: peripheral page requests, guest
//! translation and virtual interrupts, performance counters, the unit's own interrupts. Nor are the hardware
//! event registers, which hold one event besides the log: what cannot be logged shows as a command buffer or a
//! log that stopped.

mod control;
mod exclusion;
#[cfg(test)]
pub(in crate::amdvi) mod fake;
mod features;
mod file;
mod rings;
mod status;
mod tables;

pub use control::{Control, InvalidationTimeout};
pub use exclusion::{ExclusionBase, ExclusionLimit};
pub use features::{ExtendedFeatures, HostTables};
pub use file::{REGISTER_BYTES, RegisterFile};
pub use rings::{
    CommandBufferBase, CommandBufferHead, CommandBufferTail, EventLogBase, EventLogHead,
    EventLogTail, RingBase, RingPlace,
};
pub use status::Status;
pub use tables::{DeviceTableBase, SegmentBase};
