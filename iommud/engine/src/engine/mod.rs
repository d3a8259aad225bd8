//! The machine's IOMMUs, devices and domains, as one.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`mod@engine`] | [`Engine`], and what there is to see of it |
//! | `start` | its start |
//! | `poll` | going on with what is under way |
//! | `confinement` | what keeps devices from memory that is not theirs |
//! | `units` | units: which is in front of a device, whether it works, how its promises stand |
//! | [`adopt`] | going on with the tables of a daemon that has died |
//! | `domains` | domains, from their making to their end |
//! | `at_hand` | memory in and out of domains where that takes few steps |
//! | `attachment` | devices in and out of them, a group at a time |
//! | [`blocking`] | devices that are kept from everything, and faults that are not recorded |
//! | [`chain`] | mappings at chosen addresses, and one behind the other |
//! | [`deferred`] | unmaps that units are told of together |
//! | `identity` | devices that the policy leaves unconfined |
//! | `keeping` | from when on they do not reach what is kept from them |
//! | `mapping` | memory in domains, and how units come to see it |
//! | `unmapping` | memory out of domains |
//! | `freeing` | what becomes free when hardware has confirmed |
//! | `empty_tables` | the tables that domains keep although they are empty, given up |
//! | `peer` | registers of one device in the address space of another |
//! | [`runs`] | memory for clients' buffers, and what is set aside for it |
//! | `rescan` | functions that appear while the engine runs |
//!
//! # What is promised
//!
//! Between any two calls, every device reaches exactly what is mapped in the domain it is attached to, or,
//! attached to none, what firmware reserves for it (rule R1). What a call takes away is not used again
//! before the units have confirmed that they have forgotten it (rule R2); the
//! [`Completion`](crate::completion::Completion) that such a call returns tells when that is, for those who
//! must know. A call that fails has changed nothing (R7).

pub mod adopt;
mod at_hand;
mod attachment;
pub mod blocking;
pub mod chain;
mod confinement;
pub mod deferred;
mod domains;
mod empty_tables;
#[expect(clippy::module_inception, reason = "the module is about the engine, and so is the type")]
pub mod engine;
mod freeing;
mod identity;
mod keeping;
mod mapping;
mod peer;
mod poll;
mod rescan;
pub mod runs;
mod start;
mod units;
mod unmapping;

pub use self::confinement::Confinement;
pub use self::engine::Engine;
pub use self::mapping::MapSpec;
pub use self::peer::PeerBarSpec;
pub use self::poll::Event;
