//! Memory that the driver has already, made a buffer.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`memory`] | [`ForeignMemory`]: memory that is the driver's own |
//! | [`registering`] | [`Device::register`](crate::Device::register), and [`NotRegistered`] |
//! | `moved` | how a range is moved out of a process and back (Redox) |
//!
//! A buffer is usually allocated by iommud. Memory that exists already, with something in it, can be *registered*
//! instead: it becomes a buffer at the same address in this process, with what is in it, and the device sees the same
//! memory. It is for large memory that is there for long, of which pieces are then mapped and unmapped as they are
//! needed ([`Device::map`](crate::Device::map), many in one call); to copy a few pages costs less.
//!
//! # By capability
//!
//! iommud is never told where memory is, neither in physical memory nor in a process: it is sent an object of the
//! operating system in which that memory is and nothing else.
//!
//! | where | the object | whose memory it is then |
//! | --- | --- | --- |
//! | Redox | an address space in which nobody runs, into which the range was moved | iommud's: it is moved on into one that nobody else has |
//! | Linux | a memfd, sealed against growing and shrinking | shared: iommud seals it against losing its pages, too, and holds on to them |
//! | the same process | none, for there is one address space | the driver's, which has given it away for good |
//!
//! iommud keeps the memory until no device reaches it, whatever becomes of the process that had it (rules R2 and R4).

pub mod memory;
#[cfg(all(target_os = "redox", feature = "scheme"))]
pub(crate) mod moved;
pub mod registering;

pub use memory::ForeignMemory;
pub use registering::NotRegistered;
