//! The simulated machine against what the specification says, in literal words.

mod caches;
mod commands;
mod device;
mod rig;
mod translation;
