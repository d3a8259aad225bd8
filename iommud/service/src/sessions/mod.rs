//! Sessions: open devices with their domains, from the first open to the death of client or daemon.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`session`] | sessions: an open device, its domain and its buffers |
//! | `devices` | devices: opened, which begins a session, and closed |
//! | [`domains`] | explicit domains, and the devices in them |
//! | [`reset`] | devices that are reset under their drivers |
//! | [`openings`] | openings of devices that may be free soon |
//! | `generation` | how often a device has started afresh, which its holders notice |
//! | [`orphans`] | sessions of before a restart, which wait for their clients |
//! | [`numbers`] | numbers that are never used again |
//! | [`adopt`] | going on with the sessions of a daemon that has died |

pub mod adopt;
pub(crate) mod devices;
pub mod domains;
pub(crate) mod generation;
pub mod numbers;
pub mod openings;
pub mod orphans;
pub mod reset;
pub mod session;
