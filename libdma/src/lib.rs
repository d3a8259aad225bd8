//! DMA buffers for user-space drivers. The guide, [`README.md`](https://gitlab.redox-os.org/redox-os/iommud/-/blob/main/libdma/README.md),
//! says which buffer is for which job, and what stands for which call of Linux.
//!
//! ```
//! use libdma::{Access, FromDevice};
//!
//! # let machine = simulated::Machine::vtd();
//! # let device = machine.open();
//! // device: Device::open(transport, address)
//! let ring = device.coherent("ring").access(Access::Read).slice::<u64>(256)?;
//! let packet = device.stream::<FromDevice>("packets").buffer(1500)?.map()?;
//! ring.write(0, packet.iova().get())?;
//! # machine.device_writes(packet.iova(), b"hello").unwrap();
//! // ... tell the device where the ring is, and wait for its interrupt. Then:
//! let packet = packet.unmap()?;
//! let mut start = [0; 5];
//! packet.read(0, &mut start)?;
//! # assert_eq!(&start, b"hello");
//! # Ok::<(), libdma::Error>(())
//! ```
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`attributes`] | [`Attributes`]: what is wanted of memory beside its size |
//! | [`declared`] | per-device memory |
//! | [`device`] | [`Device`]: a device that this process drives |
//! | [`check`] | the checker: what a driver does wrong, with the places in its code |
//! | [`coherent`] | [`Coherent`]: typed memory that CPU and device see at once |
//! | [`buffer`] | [`Buffer`]: the bytes beneath |
//! | `dma` | `Dma`: base's `common::dma::Dma` over a confined device (feature `port`) |
//! | [`direction`] | which way data goes, as types |
//! | [`domain`] | [`Domain`]: an address space with addresses that the driver chooses, and devices in it |
//! | [`event`] | [`Event`]: what happened to a device, and how to wait for it |
//! | [`fault`] | [`Fault`]: an access that the IOMMU blocked, and what is behind it |
//! | `handed` | `Device::handed`: the device that this process was started with (features `socket`, `scheme`) |
//! | [`handle`] | [`Handle`]: an owned descriptor of iommud's |
//! | [`io_address`] | [`IoAddress`], [`BusAddress`]: I/O addresses that know which device they are of |
//! | [`limits`] | [`Limits`]: DMA masks and the shape of segments |
//! | [`mapping`] | batches of mappings |
//! | [`pool`] | [`Pool`]: blocks of one size, without a word to iommud |
//! | [`quota`] | [`QuotaReached`]: which limit a request was refused by |
//! | [`raw`] | [`RawStream`]: streaming memory by its I/O addresses, for drivers in the shape of C's |
//! | `resume` | how a driver goes on when iommud was restarted |
//! | [`reset`](mod@reset) | devices that start afresh |
//! | [`restricted`] | [`Restricted`], [`Revocable`]: handles within bounds, and handles that are taken back |
//! | [`register`] | [`ForeignMemory`]: memory that the driver has already, made a buffer |
//! | [`scatter`] | [`ScatterList`]: memory in pieces that is one transfer |
//! | [`share`] | [`SharedBuffer`], [`Attachment`]: buffers in other processes and for other devices |
//! | [`stream`] | [`Stream`]: memory that CPU and device take turns with |
//! | [`unmapped`] | [`UnmappedBuffer`]: a buffer that this process does not see |
//! | [`transport`] | what carries requests: a Redox scheme, a Linux socket, or the same process |
//! | [`window`] | windows of mapped memory, which small buffers share |
//! | `virtio` | the crate `virtio-drivers` over a confined device (feature `virtio`) |
//! | [`protocol`] | what drivers and `iommud` say to each other |
//!
//! # Threads
//!
//! Everything that holds memory can go to another thread, but base's `Dma`. What the CPU reads and writes through `&self` is one thread's at a
//! time: two that touched the same bytes at once would race. The compiler sees to it.
//!
//! | | `Send` | `Sync` |
//! | --- | --- | --- |
//! | [`Device`], [`Stream`], [`Pool`], [`Domain`], [`Entered`]: where memory comes from and goes to | yes | yes |
//! | [`UnmappedBuffer`], [`Attachment`], [`Handle`]: memory that this process does not see by them | yes | yes |
//! | [`Buffer`], [`SharedBuffer`], [`ForeignMemory`], [`DeviceMemory`](declared::DeviceMemory) | yes | no |
//! | [`Coherent`], [`PoolBlock`] | if their type is | no |
//! | [`StreamBuffer`], whoever's turn it is, [`SyncedRange`](stream::SyncedRange), [`Bounced`](stream::Bounced), [`ScatterList`], [`Gather`](stream::Gather), [`RawStream`] | yes | no |
//! | `virtio::Binding`, `virtio::DeviceHal`: they take turns by a lock | yes | yes |
//! | `virtio::Translated` | if its transport is | if its transport is |
//! | `Dma`, as base's | no | no |
//!
//! ```
//! use libdma::declared::DeviceMemory;
//! use libdma::stream::{Bounced, DeviceOwned, Gather, Synced, SyncedRange};
//! use libdma::*;
//!
//! fn both<T: Send + Sync>() {}
//! both::<Device>();
//! both::<Stream<ToDevice>>();
//! both::<Pool<[u8]>>();
//! both::<Domain>();
//! both::<Entered>();
//! both::<UnmappedBuffer>();
//! both::<Attachment>();
//! both::<Handle>();
//!
//! fn one<T: Send>() {}
//! one::<Buffer>();
//! one::<SharedBuffer>();
//! one::<ForeignMemory>();
//! one::<DeviceMemory>();
//! one::<Coherent<[u64]>>();
//! one::<PoolBlock<[u64]>>();
//! one::<StreamBuffer<ToDevice>>();
//! one::<StreamBuffer<ToDevice, DeviceOwned>>();
//! one::<StreamBuffer<ToDevice, Synced>>();
//! one::<SyncedRange<'_, ToDevice>>();
//! one::<Bounced<'_, ToDevice>>();
//! one::<ScatterList<'_, ToDevice>>();
//! one::<ScatterList<'_, ToDevice, DeviceOwned>>();
//! one::<Gather<ToDevice>>();
//! one::<RawStream>();
//! ```
//!
//! # Three kinds of address
//!
//! A driver reads and writes memory at a [`CpuAddr`], hands its device an [`Iova`], and never learns a
//! [`PhysAddr`]: the IOMMU translates, and what was not mapped cannot be reached. The types do not convert
//! into each other. Only where the machine has no IOMMU ([`Device::is_confined`]) is the number of an I/O address where the
//! memory is, and nothing keeps the device from other memory.
#![no_std]

extern crate alloc;
#[cfg(any(
    all(target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
#[macro_use]
extern crate std;

pub mod attributes;
pub mod buffer;
pub mod check;
pub mod coherent;
mod copy;
pub mod declared;
pub mod device;
pub mod direction;
#[cfg(all(
    feature = "port",
    any(
        all(target_os = "linux", feature = "socket"),
        all(target_os = "redox", feature = "scheme")
    )
))]
pub mod dma;
pub mod domain;
pub mod event;
mod extent;
pub mod fault;
#[cfg(any(
    all(target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
pub mod handed;
pub mod handle;
pub mod io_address;
pub mod limits;
pub mod mapping;
pub mod pool;
pub mod protocol;
pub mod quota;
pub mod raw;
pub mod register;
pub mod reset;
pub mod restricted;
mod resume;
pub mod scatter;
mod session;
pub mod share;
mod shown;
pub mod stream;
mod sync;
pub mod transport;
pub mod unmapped;
#[cfg(feature = "virtio")]
pub mod virtio;
pub mod window;

pub use attributes::Attributes;
pub use buffer::Buffer;
pub use coherent::Coherent;
pub use device::Device;
pub use direction::{Bidirectional, Direction, FromDevice, ToDevice};
#[cfg(all(
    feature = "port",
    any(
        all(target_os = "linux", feature = "socket"),
        all(target_os = "redox", feature = "scheme")
    )
))]
pub use dma::Dma;
pub use dma_types::{Access, CacheType, CpuAddr, Iova, PciAddress, PhysAddr};
pub use domain::{Domain, Entered};
pub use event::{Event, Events};
pub use fault::Fault;
#[cfg(any(
    all(target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
pub use handed::HandedError;
pub use handle::Handle;
pub use io_address::{AddressSpace, BusAddress, IoAddress, WrongDevice};
pub use limits::Limits;
pub use mapping::{Found, MapRequest, Mapped};
pub use pool::{Pool, PoolBlock};
pub use protocol::Error;
pub use quota::QuotaReached;
pub use raw::{RawError, RawStream};
pub use register::{ForeignMemory, NotRegistered};
pub use restricted::{Restricted, Revocable};
pub use scatter::ScatterList;
pub use share::{Attachment, SharedBuffer};
pub use stream::{Stream, StreamBuffer};
pub use unmapped::UnmappedBuffer;
pub use window::WindowUsage;

/// The guide's examples, to be run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Guide;

/// The front page's, to be compiled: they need an iommud.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct FrontPage;
