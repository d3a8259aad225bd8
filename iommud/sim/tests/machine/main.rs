//! The simulated machine against what the specification says, in literal words.

#[macro_use]
#[path = "../by_hand/mod.rs"]
mod by_hand;

mod caches;
mod commands;
mod device;
mod rig;
mod translation;
