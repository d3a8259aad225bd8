//! An AMD-Vi unit's few registers, entries and commands that a case needs, from the text of the specification
//! (AMD I/O Virtualization Technology Specification, 48882).
//!
//! | module | what is in it |
//! | --- | --- |
//! | `unit` | the unit: found, turned on and off, and its PCI function |
//! | [`ivrs`] | what the firmware says of it |
//! | [`registers`] | its registers |
//! | `capability` | its PCI function's capabilities |
//! | [`entries`] | entries of the device table and of page tables |
//! | `events` | events, written in its place |
//! | [`commands`] | commands |
//! | [`command_buffer`] | giving the unit commands |
//! | [`tables`] | reading and writing tables |
//!
//! The unit's registers are taken to be where the IVRS says. QEMU 7.2's capability in configuration space
//! puts them elsewhere: the two halves of the address are cut in the wrong place.

mod capability;
pub mod command_buffer;
pub mod commands;
pub mod entries;
mod events;
pub mod ivrs;
pub mod registers;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod unit;

pub use command_buffer::{COMMANDS, Commands};
pub use commands::{Command, completion_wait, forget_all, forget_device, forget_pages, interrupt};
pub use entries::{DeviceEntry, DeviceEntry0, InterruptEntry, PageEntry, device_entry};
pub use ivrs::{Described, first_unit};
pub use tables::{DEVICE_TABLE_FRAMES, write_device, write_word};
pub use unit::Unit;
