//! The checker: what a driver does wrong with DMA memory, with the places in its code. Linux's `CONFIG_DMA_API_DEBUG`.
//!
//! It is on in debug builds, and in all others where the environment variable `LIBDMA_CHECK` is `1`
//! ([`is_on`]) or the driver calls [`turn_on`]. Off, it costs a load and a branch for each thing that is made and given
//! back. It never panics and changes nothing of what the calls do: a [`Report`] is a sentence, which goes to
//! standard error or to a function of the driver's ([`on_report`]).
//!
//! ```
//! use libdma::check;
//! # use std::sync::Mutex;
//! # static SENTENCES: Mutex<Vec<String>> = Mutex::new(Vec::new());
//!
//! check::turn_on();
//! check::on_report(|report| SENTENCES.lock().unwrap().push(report.to_string()));
//!
//! # let machine = simulated::Machine::vtd();
//! # let device = machine.open();
//! let pool = device.pool("descriptors").bytes(64)?;
//! let address = pool.alloc()?.into_address();
//! pool.free(address)?;
//! assert!(pool.free(address).is_err());
//! // double free on 0000:00:02.0: the block of pool "descriptors" (64 bytes at 0x100000000 that the device may read and
//! // write, allocated at src/ring.rs:10) was given back at src/ring.rs:11, and was to be again at src/ring.rs:12
//! assert!(SENTENCES.lock().unwrap()[0].starts_with("double free on 0000:00:02.0: the block of pool \"descriptors\""));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it finds, and where that can come from
//!
//! Most of what Linux looks for at run time cannot be written here: a guard knows its length, direction and kind, is
//! unmapped once because unmapping takes it, and has no access to memory that is the device's. What is left:
//!
//! | report | from where |
//! | --- | --- |
//! | [`Report::Leak`] | [`leaks`], asked at a driver's end: guards that were forgotten ([`core::mem::forget`], a cycle of `Arc`s), and blocks that were left to the device. A [`Pool`](crate::Pool) that is dropped while blocks of it are out. A [`RawStream`](crate::RawStream) that is dropped while something is mapped |
//! | [`Report::DoubleFree`], [`Report::Unknown`], [`Report::Held`], [`Report::Inside`], [`Report::WrongOwner`] | [`Pool::take`](crate::Pool::take) and [`Pool::free`](crate::Pool::free), which take an address, and return an error as well |
//! | [`Report::DoubleFree`], [`Report::NamedTwice`], [`Report::Unknown`], [`Report::WrongSize`] | [`Device::unmap`](crate::Device::unmap) and [`Domain::unmap`](crate::domain::Domain::unmap), which take addresses, and return an error as well |
//! | [`Report::WrongDevice`] | all of these and the raw layer: an address of another device, or of another domain |
//! | [`Report::DoubleFree`], [`Report::UseAfterFree`], [`Report::Unknown`], [`Report::Inside`], [`Report::WrongOwner`], [`Report::WrongSize`], [`Report::WrongDirection`], [`Report::MissingSync`] | the raw layer, which returns an error as well |
//! | [`Report::WriteAfterFree`] | a device, or a pointer that was kept, that writes to a free block of a pool. It is found when the block is given out again, by the pattern that is put into free blocks |
//! | [`Report::Fault`] | [`Device::events`](crate::Device::events), of whatever the driver was given in this session: what is there and allows no such access, what was there and is gone, which is how a use of a strict stream after its unmap shows, and what is out of reach because the device is, or was, in a [`Domain`](crate::Domain) |
//!
//! # What is told as a leak
//!
//! Each with its label, and the place where it was made:
//!
//! | what | as | label |
//! | --- | --- | --- |
//! | [`Buffer`](crate::Buffer), [registered](crate::ForeignMemory) too, [`UnmappedBuffer`](crate::UnmappedBuffer) | [`Kind::Buffer`] | its own |
//! | [`Coherent`](crate::Coherent) | [`Kind::Coherent`] | its own |
//! | [`Pool`](crate::Pool), [`PoolBlock`](crate::PoolBlock) and what was left of them to the device | [`Kind::Pool`], [`Kind::Block`] | the pool's |
//! | [`StreamBuffer`](crate::StreamBuffer), in a [`Gather`](crate::stream::Gather) or a list too | [`Kind::Stream`] while it is mapped, else [`Kind::StreamMemory`], or as the buffer that was adopted | the stream's |
//! | [`Bounced`](crate::stream::Bounced) | [`Kind::Stream`] | the stream's |
//! | [`ScatterList`](crate::ScatterList), mapped | [`Kind::Scatter`], for each segment, and none of the buffers in it | the stream's |
//! | what is mapped in a [`RawStream`](crate::RawStream) | [`Kind::Raw`] | the stream's |
//! | [declared memory](crate::declared) | [`Kind::Declared`], and not the buffer | the buffer's |
//! | [`Attachment`](crate::Attachment) | [`Kind::Attachment`] | its own |
//! | [`SharedBuffer`](crate::SharedBuffer) | [`Kind::Shared`] | the number of the buffer: the label is the other process's, and `iommuctl mappings` shows it beside the number |
//! | [`Domain`](crate::Domain) | [`Kind::Domain`] | its own |
//! | [`Entered`](crate::Entered) | [`Kind::Stay`] | the domain's; its number, if it is another process's, whose label `iommuctl domains` shows beside that |
//! | `Dma` (feature `port`) | [`Kind::Buffer`] | `Dma` |
//! | what the crate `virtio-drivers` holds of a bound device (feature `virtio`) | [`Kind::Buffer`], [`Kind::Stream`] | `virtio queue`, `virtio in`, ...; the place is where the device was bound |
//!
//! Not told are: a mapping by [`Device::map`](crate::Device::map), which ends with its buffer, and that is told; a
//! [`Device`](crate::Device) and its windows, which are there to be kept; a [`Ticket`](crate::protocol::Ticket) and a
//! [`Handle`](crate::Handle), which are for other processes; [`ForeignMemory`](crate::ForeignMemory) before it is registered, which is the
//! process's own.
//!
//! A guard that is dropped cannot say where: `drop` has no caller that the language tells of. Reports say "when it was
//! dropped" then, and name the line where something was given back by a call.
//!
//! # What Linux finds, and what becomes of it here
//!
//! Linux's checks are those of `kernel/dma/debug.c` (6.1).
//!
//! | Linux: "device driver ..." | here |
//! | --- | --- |
//! | tries to free DMA memory it has not allocated | [`Report::DoubleFree`], [`Report::Unknown`], [`Report::Inside`] |
//! | frees DMA memory with different size; syncs DMA memory outside allocated range | [`Report::WrongSize`] |
//! | frees DMA memory with different direction; syncs DMA memory with different direction | [`Report::WrongDirection`]; the direction of a stream is a type |
//! | frees DMA memory with wrong function, with different CPU address, DMA sg list with different entry count | cannot be written: a guard is given back by itself |
//! | tries to sync DMA memory it has not allocated | [`Report::Unknown`], [`Report::UseAfterFree`] |
//! | failed to check map error | cannot be overlooked: a `Result` |
//! | maps memory from stack, from kernel text or rodata | cannot happen: a slice is copied through a window, and memory is mapped as it is only where it became a buffer |
//! | mapping sg segment longer than device claims to support; sg segment boundary | a typed error, or another segment ([`Limits`](crate::Limits)) |
//! | has pending DMA allocations while released from device | [`Report::Leak`] |
//! | cacheline tracking: overlapping mappings | not looked for: on x86 devices look into the CPUs' caches, so that two mappings of a cache line are no error |
//! | (`dma_pool_destroy`) busy; (`POOL_POISON_FREED`) corrupted | [`Report::Leak`]; [`Report::WriteAfterFree`] |
//!
//! # What it cannot find
//!
//! - Accesses through pointers that were got by `as_ptr`: the CPU does not tell of them. The raw layer reports those that
//!   go through its own functions.
//! - A device that writes where it may but should not: to another block of the same window, or late to one that was given
//!   out again. A window is mapped all the time; a stream that is opened as strict is not, and then it is a fault.
//! - A second free of an address that was given out anew in between: it frees what is somebody else's now. For a block of
//!   a pool that is [`Report::Held`], unless that too was left to the device.
//! - More than the last 1024 things that were given back are not remembered.
//! - Which of several things a fault was about that were at one address one after the other: faults are read later than
//!   they happen. What lives and does not allow it comes first, then what was given back last. One that the IOMMU does not
//!   record is not told at all, and without an IOMMU there is none.
//! - A driver that is killed leaves no report: iommud takes everything back (rule R4).
//!
//! | module | what is in it |
//! | --- | --- |
//! | `report` | [`Report`]: what was found |
//! | `thing` | [`Thing`]: something that a driver was given for its device |
//! | `place` | [`Place`]: where in the code |
//! | `switch` | whether the checker is on |
//! | `sink` | where reports go |
//! | `registry` | what lives, and what lived lately |
//! | `explain` | what is behind a fault |
//! | `note` | what those who make and give back tell the checker |

mod explain;
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
pub(crate) use note::{
    Mark, Note, Space, blocks, denied, domain_dropped, made, made_at, made_of, mappings, raw,
    wrong_device,
};
pub use place::Place;
pub use report::{Act, Found, Life, Report, Stay};
pub use sink::on_report;
pub(crate) use switch::{is_known_off, run};
pub use switch::{is_on, turn_off, turn_on};
pub use thing::{Kind, Thing};
