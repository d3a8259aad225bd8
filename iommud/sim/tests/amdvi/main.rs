//! An AMD-Vi unit in a machine, driven by its registers with literal words from the specification.

mod caches;
mod commands;
mod device;
mod events;
mod registers;
mod rig;
mod translation;
