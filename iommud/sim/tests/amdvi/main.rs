//! An AMD-Vi unit in a machine, driven by its registers with literal words from the specification.

#[macro_use]
#[path = "../by_hand/mod.rs"]
mod by_hand;

mod caches;
mod commands;
mod device;
mod events;
mod registers;
mod rig;
mod translation;
