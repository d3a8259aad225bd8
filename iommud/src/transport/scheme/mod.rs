//! The transport on Redox: a handle is a descriptor of the `iommu` scheme.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`desk`] | [`Desk`]: each request to the service, each answer to the request that waits for it |
//! | [`request`] | [`Request`] and [`Reply`]: what clients want and get, apart from how the kernel says it |
//! | [`open`] | what the transport remembers of the handles that are open |
//! | [`folder`] | the folders under the scheme's name |
//! | [`memory`] | memory that clients lend with their requests |
//! | [`timer`] | the time at which to look at the hardware again |
//! | `decode`, `encode` | requests as the kernel says them, and answers as it wants them (Redox) |
//! | `received` | descriptors that clients send (Redox) |
//! | `server` | the loop (Redox) |
//!
//! # How a handle lives
//!
//! The kernel knows a descriptor of this scheme by a number, which is the service's own for the handle. It
//! may be duplicated, inherited and passed on; when its last copy and its last mapping are gone, the kernel
//! says so and the service closes the handle. Who may open what is judged by the uid that the kernel vouches
//! for at the opening; from there on the descriptor is the authority.
//!
//! A client that is killed while it opens something never gets the descriptor, and then the kernel says
//! nothing at all: not that the client is gone, nor that the number was lost. So a handle counts as given
//! only once it was used. One that never was, and whose client's process is no more, is closed
//! (rule R4).
//!
//! Nor does the kernel (663e6641, `FileDescriptor::close` and `file_op_generic_ext`) say anything of a descriptor that is
//! let go of twice at the same moment: its last two copies closed on two processors, or the last one closed by one thread
//! while a request of another on it is under way. Nothing is known here of such a handle any more. Its device
//! stays held, with what it reaches, until iommud is started again; nobody else's memory is any the worse for it.
//!
//! A device's handle becomes readable, for event queues, when there are faults to be read: `fevent` is answered with
//! how it stands, and events are posted by the handle's number. Duplicates of a descriptor share its number, and so
//! each event; a handle that was derived has a number of its own, and asks for itself.
//!
//! # Clients that do not mean well
//!
//! There is one thread, and no client can make it wait. Requests that hardware must confirm are kept and
//! answered later; each is answered once, whether or not its client still lives, for until then the kernel
//! keeps the client's memory mapped here. A signal to the client does not cut that short: it is answered
//! within the hardware's deadline. What a client lends as memory it can change meanwhile, or take away:
//! see [`memory`].
//!
//! What runs on any system is compiled for tests on the host as well; the rest is for Redox alone.

#[cfg(target_os = "redox")]
pub mod decode;
pub mod desk;
#[cfg(target_os = "redox")]
pub mod encode;
pub mod folder;
pub mod memory;
pub mod open;
#[cfg(target_os = "redox")]
pub mod received;
pub mod request;
#[cfg(target_os = "redox")]
pub mod server;
pub mod timer;

pub use desk::Desk;
pub use request::{Reply, Request};
#[cfg(target_os = "redox")]
pub use server::{Door, Server};
