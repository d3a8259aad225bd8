//! What the `iommu` scheme does, whatever carries its requests.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`service`] | [`Service`]: open, call, read, close, poll |
//! | [`handles`] | handles, and what is derived from them |
//! | [`sessions`] | open devices, and who has them |
//! | [`memory`] | buffers, peers' BARs and mappings |
//! | [`faults`] | what devices did wrong |
//! | [`account`] | who holds how much, and how much that may be |
//! | `charging` | what requests are charged, and what hardware gives back |
//! | [`records`] | what the service writes in the engine's ledger, so that a restarted daemon finds it |
//! | [`numbered`] | things by numbers that are never used again |
//! | [`node`] | the names under the scheme, parsed |
//! | [`calls`] | the calls on handles, and batches of them |
//! | [`pending`] | requests that hardware must confirm before they are answered |
//! | [`report`] | the text nodes, as tables and as JSON |
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
pub mod calls;
mod charging;
pub mod error;
pub mod faults;
pub mod handles;
#[cfg(feature = "in-process")]
pub mod in_process;
pub mod memory;
pub mod node;
pub mod numbered;
pub mod pending;
pub mod records;
pub mod report;
pub mod service;
pub mod sessions;

pub use handles::handle::HandleId;
pub use memory::buffers::Grant;
pub use memory::register::Awaited;
pub use pending::{Answer, Completed, Outcome, RequestId};
pub use service::{Caller, Service, Settings};
