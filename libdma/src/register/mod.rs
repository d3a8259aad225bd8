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
//! Until then it counts in the device's quota.
//!
//! # An example
//!
//! Pages of a large piece of memory, mapped as they are needed, in one call. Here the driver and iommud are in one process;
//! elsewhere the memory is from `ForeignMemory::new`, or on Linux `ForeignMemory::from_memfd`.
//!
//! ```
//! use core::ptr::NonNull;
//! use libdma::{Access, ForeignMemory, MapRequest};
//!
//! #[repr(C, align(4096))]
//! struct Pages([u8; 4 * 4096]);
//!
//! # let machine = simulated::Machine::vtd();
//! # let device = machine.open();
//! let pages = NonNull::from(Box::leak(Box::new(Pages([0; 4 * 4096]))));
//! let range = NonNull::slice_from_raw_parts(pages.cast::<u8>(), 4 * 4096);
//! // SAFETY: it was leaked just now, and nothing refers to it any more.
//! let memory = unsafe { ForeignMemory::from_range(range) }?;
//! memory.write(3 * 4096, b"in the last page")?;
//!
//! let buffer = device.register(memory, None, "cache")?;
//! let page = |number: u64| MapRequest {
//!     buffer: &buffer,
//!     offset: number * 4096,
//!     bytes: 4096,
//!     access: Access::Read,
//! };
//! let mapped = device.map(&[page(3), page(0)])?;
//! # assert_eq!(machine.device_reads(mapped[0].iova(), 16).unwrap(), b"in the last page");
//! // The device reads both pages, and then:
//! device.unmap(&mapped)?;
//! # assert!(machine.device_reads(mapped[0].iova(), 1).is_err());
//! # drop((buffer, device));
//! # machine.check();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod memory;
#[cfg(all(target_os = "redox", feature = "scheme"))]
pub(crate) mod moved;
pub mod registering;

pub use memory::ForeignMemory;
pub use registering::NotRegistered;
