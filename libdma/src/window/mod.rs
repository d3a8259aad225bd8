//! Windows: memory that is mapped once, in large steps, and given out in blocks without a word to iommud.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `block` | [`Block`]: a piece of a window, and what is asked for one |
//! | `windows` | [`Windows`]: all windows of a device |

mod block;
mod windows;

pub(crate) use block::{Block, BlockRequest};
pub(crate) use windows::Windows;
