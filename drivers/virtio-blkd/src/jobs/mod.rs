//! What the program does with a disk.

mod hold;
mod info;
mod read;
mod rogue;
mod write;

pub(crate) use hold::hold;
pub(crate) use info::info;
pub(crate) use read::read;
pub(crate) use rogue::rogue;
pub(crate) use write::write;
