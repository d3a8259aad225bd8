//! Windows: memory that is mapped once, in large steps, and given out in blocks without a word to iommud.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `bits` | sets of small numbers |
//! | `block` | `Block`: a piece of a window, and what is asked for one |
//! | `buddy` | `Buddy`: which parts of a window are free |
//! | `usage` | [`WindowUsage`]: how much is in windows |
//! | `window` | `Window`: a buffer that is given out in blocks |
//! | `windows` | `Windows`: all windows of a device |
//!
//! A window is one buffer, of 64 KiB at first and up to 2 MiB, where one large page maps it. It has one access and one
//! way of being cached, and is one device's alone (rule R8). Blocks up to half the largest window share windows; a longer
//! one is a buffer of its own.
//!
//! Giving a block back ends the driver's claim to it, not the device's access to the window: a device that goes on
//! writing writes into whatever the driver keeps there next, and into nothing of anyone else's. Of the windows of a
//! kind that nothing is taken from, one is kept for the next block and the others are given back; all of them are when
//! iommud has no more to give.

mod bits;
mod block;
mod buddy;
mod usage;
#[expect(clippy::module_inception, reason = "it is what the module is named for")]
mod window;
mod windows;

pub(crate) use block::{Block, BlockRequest};
pub(crate) use buddy::Buddy;
pub use usage::WindowUsage;
pub(crate) use window::Kind;
pub(crate) use windows::{LONGEST_BLOCK, Windows};
