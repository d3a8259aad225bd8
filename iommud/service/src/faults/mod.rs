//! What devices did wrong: explained, counted, told to whom it concerns, and punished.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`fault_log`] | the latest blocked accesses of all devices |
//! | [`events`] | what happened to the device of a session and was not read yet |
//! | [`unread`] | who is told of what happened to a device, and when |
//! | [`history`] | what was mapped for a session and is not any more |
//! | `noting` | what becomes of each blocked access that a unit has recorded |
//! | [`storms`] | devices that are denied more than anybody wants to know, one by one |
//! | [`quarantine`] | devices that reach nothing for what they did |
//! | [`explain`] | what is behind a blocked access |

pub mod events;
pub mod explain;
pub mod fault_log;
pub mod history;
pub(crate) mod noting;
pub mod quarantine;
pub mod storms;
pub mod unread;
