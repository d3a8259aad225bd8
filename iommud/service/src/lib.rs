//! What the `iommu` scheme does, whatever carries its requests.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`service`] | [`Service`]: open, call, read, close, poll |
//! | [`account`] | who holds how much, and how much that may be |
//! | [`adopt`] | going on with the sessions of a daemon that has died |
//! | [`attach`] | buffers of memory that another handle offers |
//! | [`bounds`] | what the mappings of a handle are within |
//! | [`buffers`] | buffers: allocated, granted to clients' eyes, and given back |
//! | `charging` | what requests are charged, and what hardware gives back |
//! | `devices` | devices: opened, which begins a session, and closed |
//! | `deriving` | new handles from old ones |
//! | [`handle`] | handles: what each is of, and what it allows |
//! | [`node`] | the names under the scheme, parsed |
//! | [`session`] | sessions: an open device, its domain and its buffers |
//! | `strict` | mappings each of which is the only one of its memory |
//! | [`domains`] | explicit domains, and the devices in them |
//! | [`mappings`] | buffers in domains: mapped, unmapped and looked up |
//! | [`calls`] | the calls on handles, and batches of them |
//! | [`register`] | buffers of memory that clients supply |
//! | `generation` | how often a device has started afresh, which its holders notice |
//! | [`reset`] | devices that are reset under their drivers |
//! | `revoke` | handles that end with everything that was derived from them |
//! | [`runs`] | memory that several buffers may be of |
//! | [`tickets`] | what handles offer, for requests on other handles to name |
//! | [`numbers`] | numbers that are never used again |
//! | [`openings`] | openings of devices that may be free soon |
//! | [`orphans`] | sessions of before a restart, which wait for their clients |
//! | [`pending`] | requests that hardware must confirm before they are answered |
//! | [`faults`] | the latest blocked accesses of all devices |
//! | [`events`] | what happened to the device of a session and was not read yet |
//! | [`unread`] | who is told of what happened to a device, and when |
//! | [`history`] | what was mapped for a session and is not any more |
//! | `noting` | what becomes of each blocked access that a unit has recorded |
//! | [`storms`] | devices that are denied more than anybody wants to know, one by one |
//! | [`quarantine`] | devices that reach nothing for what they did |
//! | [`explain`] | what is behind a blocked access |
//! | [`windows`] | windows of one device's registers in the address space of another |
//! | [`report`] | the text nodes, as tables and as JSON |
//! | [`tree`] | which handle was derived from which |
//! | [`error`] | which of the protocol's errors the engine's are |
//! | `in_process` | a transport for drivers in the same process (feature `in-process`) |
//!
//! The service never blocks: it is a state machine. A request is done, or pending until a
//! [`Service::poll`] after the hardware has confirmed; a unit that is stuck delays those who need it and
//! nobody else. It opens nothing, prints nothing and knows no transport.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

pub mod account;
pub mod adopt;
pub mod attach;
pub mod bounds;
pub mod buffers;
pub mod calls;
mod charging;
mod deriving;
mod devices;
pub mod domains;
pub mod error;
pub mod events;
pub mod explain;
pub mod faults;
mod generation;
pub mod handle;
pub mod history;
#[cfg(feature = "in-process")]
pub mod in_process;
pub mod mappings;
pub mod node;
mod noting;
pub mod numbers;
pub mod openings;
pub mod orphans;
pub mod pending;
pub mod quarantine;
pub mod records;
pub mod register;
pub mod report;
pub mod reset;
mod revoke;
pub mod runs;
pub mod service;
pub mod session;
pub mod storms;
mod strict;
pub mod tickets;
pub mod tree;
pub mod unread;
pub mod windows;

pub use buffers::Grant;
pub use handle::HandleId;
pub use pending::{Answer, Completed, Outcome, RequestId};
pub use register::Awaited;
pub use service::{Caller, Service, Settings};
