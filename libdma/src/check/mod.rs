//! The checker: what a driver does wrong with DMA memory, with the places in its code. Linux's `CONFIG_DMA_API_DEBUG`.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `report` | [`Report`]: what was found |
//! | `thing` | [`Thing`]: something that a driver was given for its device |
//! | `place` | [`Place`]: where in the code |
//! | `switch` | whether the checker is on |
//! | `sink` | where reports go |
//! | `registry` | what lives, and what lived lately |
//! | `note` | what those who make and give back tell the checker |

mod note;
mod place;
mod registry;
mod report;
mod sink;
mod switch;
#[cfg(test)]
mod tests;
mod thing;

pub use note::leaks;
pub(crate) use note::{Mark, Note, Space, blocks, denied, device_dropped, made, raw};
pub use place::Place;
pub use report::{Act, Found, Life, Report};
pub use sink::on_report;
pub(crate) use switch::run;
pub use switch::{is_on, turn_off, turn_on};
pub use thing::{Kind, Thing};
