//! I/O addresses that know which device they are of.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `held` | [`IoAddress`]: an address that holds on to what is mapped there |
//! | `bus` | [`BusAddress`]: one that does not |
//! | `space` | [`AddressSpace`]: whose an address is; [`WrongDevice`] |
//!
//! An [`Iova`] is a number. What it means depends on the device that puts it on its bus: in another device's address space
//! the same number is other memory, or nothing. An [`IoAddress`] is a number of which that is known. It is made by what
//! is mapped for a device, and by nothing else, and it turns into a number only for that device:
//!
//! ```
//! # use libdma::{Access, Device, Error};
//! # fn main() -> Result<(), Error> {
//! # let machine = simulated::Machine::vtd();
//! # let disk = Device::open(machine.transport(), simulated::edu())?;
//! # let card = Device::open(machine.transport(), simulated::second_edu())?;
//! let buffer = disk.allocate(4096, Some(Access::ReadWrite), "sectors")?;
//! let address = buffer.io_address().ok_or(Error::NotMapped)?;
//! let number = address.for_device(&disk)?; // what the disk's registers take
//! assert_eq!(Err(Error::WrongOwner), address.for_device(&card).map_err(Error::from));
//!
//! // The way to the card's own address of it leads through the buffer's capability.
//! let attached = buffer.attach(&card, Access::Read, "sectors for the card")?;
//! let number = attached.io_address().for_device(&card)?;
//! # Ok(())
//! # }
//! ```
//!
//! A driver that keeps nothing but addresses (in a descriptor, beside a ring, in a tree) keeps a [`BusAddress`]: a number with
//! whose it is, which outlives what is mapped there. What takes an address back takes that, and refuses another device's,
//! whatever the numbers: the first address of nearly every device is the same.
//!
//! ```
//! # use libdma::{BusAddress, Device, Error, Iova};
//! # use libdma::pool::NotTaken;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let machine = simulated::Machine::vtd();
//! # let disk = Device::open(machine.transport(), simulated::edu())?;
//! # let card = Device::open(machine.transport(), simulated::second_edu())?;
//! let (commands, frames) = (disk.pool("commands").bytes(64)?, card.pool("frames").bytes(64)?);
//! let command: BusAddress = commands.alloc()?.into_address();
//! let frame: BusAddress = frames.alloc()?.into_address();
//! assert_eq!(command.iova(), frame.iova());
//! assert!(matches!(frames.take(command), Err(NotTaken::WrongDevice(_))));
//!
//! // A number that a device named, in its ring of what it has done, is made an address of that device:
//! let done: Iova = command.iova();
//! commands.free(disk.bus_address(done))?;
//! # frames.free(frame)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Whose an address is
//!
//! An [`AddressSpace`] says so: the device, which session of it, and the explicit domain if it is of one. So
//!
//! - all handles of one session agree, in one process or in several: what one [`Device`] mapped, another that was made of
//!   a [derived](crate::Device::derive) handle may unmap, if its rights allow it. The numbers of a session are told apart by
//!   iommud, so that none of its pools and streams takes a block for another's;
//! - what was mapped for a session is nothing to the next session of that device: it ended with it (rule R4);
//! - an address of a [`Domain`](crate::Domain) is not one of the device that the domain was made from, nor the other way round. To the
//!   registers of the devices that are in a domain its addresses go as numbers ([`BusAddress::iova`]), since it is the domain
//!   that they are of;
//! - devices that no IOMMU can keep apart reach each other's memory, and are not each other all the same.
//!
//! An iommud that was started again counts sessions from one. A driver that is told that its iommud has gone
//! ([`Error::DaemonGone`](crate::Error::DaemonGone)) gives up its addresses with all else.
//!
//! # Who takes what
//!
//! | call | takes | why |
//! | --- | --- | --- |
//! | [`Device::unmap`], [`Domain::unmap`](crate::Domain::unmap) | [`Mapped`](crate::Mapped), which has a [`BusAddress`] | another's is [`Error::WrongOwner`](crate::Error::WrongOwner), with nothing unmapped |
//! | [`Pool::take`](crate::Pool::take), [`Pool::free`](crate::Pool::free) | [`BusAddress`] | another's is [`NotTaken::WrongDevice`](crate::pool::NotTaken::WrongDevice) |
//! | [`RawStream`](crate::RawStream)'s calls | [`BusAddress`] | another's is [`RawError::WrongDevice`](crate::RawError::WrongDevice) |
//! | [`IoAddress::for_device`], [`BusAddress::for_device`] | the address and the device | another's is [`WrongDevice`] |
//! | [`Device::bus_address`], [`Domain::bus_address`](crate::Domain::bus_address) | [`Iova`] | says whose a number is: the driver that read it from that device's memory knows, and nobody else does |
//! | [`Device::map_at`], [`Domain::map_at`](crate::Domain::map_at), [`NewDomain::aperture`](crate::domain::NewDomain::aperture) | [`Iova`] | a choice, not an address that somebody was given: no device has it before. What is mapped there already is refused |
//! | [`Device::lookup`], [`Domain::lookup`](crate::Domain::lookup) | [`Iova`] | a question about this address space, of a number that may come from anywhere (a fault, say). It changes nothing, and what it finds is this address space's |
//! | [`DeviceMemory::local`](crate::declared::DeviceMemory::local) | [`Iova`] | what the device itself calls its own memory, which no IOMMU translates; `unsafe`, for nobody can check it |
//! | `virtio-drivers`' `Hal` (feature `virtio`) | a number | the crate's trait has no other. Each device has a type of its own, and gives up what is its own at that number *and* at that place of this process |
//!
//! What no type can tell is what a driver writes into a register: that is a number ([`BusAddress::iova`]), and whoever writes one
//! device's into another's has that device reach something else of its own, or nothing. [`BusAddress::for_device`]
//! asks first.
//!
//! # Why never from a physical address
//!
//! Linux's `dma_addr_t` is an integer, as is `phys_addr_t`, and for the longest time the two were the same number on a PC.
//! Drivers therefore gave one where the other was meant (`virt_to_bus`), and one device's address to another. In 2004 John
//! Whitney proposed on linux-kernel that a DMA address have a type that names the bus it is of, so that it could be
//! converted for another bus, and one that is on none be refused. This is that idea, with one thing added: the
//! conversion takes a capability. Were there a way from a physical address to an I/O address, whoever knows where something
//! is could have a device reach it, and that is what an IOMMU is there to prevent (rule R3). So
//!
//! - a buffer's address for another device comes from attaching the buffer to it ([`Buffer::attach`](crate::Buffer::attach),
//!   [`SharedBuffer::attach`](crate::SharedBuffer::attach)), which its handle's rights allow or do not;
//! - a device's registers are reached by another device when who holds the first offers them
//!   ([`Device::offer_bar`]), which names them by BAR and offset and not by where they are;
//! - there is no function that takes a [`PhysAddr`](crate::PhysAddr), and no process is ever told one.
//!
//! # What the compiler catches
//!
//! That an address is given to the wrong device is found when it is turned into a number: which devices a process
//! drives is known only when it runs. What needs no running does not compile. A number is no I/O address, nor is a physical
//! address:
//!
//! ```compile_fail,E0308
//! fn program(_: libdma::IoAddress<'_>) {}
//! program(libdma::Iova::new(0x1000));
//! ```
//!
//! ```compile_fail,E0277
//! let address: libdma::IoAddress<'_> = libdma::PhysAddr::new(0x1000).into();
//! ```
//!
//! a number is not taken for an address that somebody was given:
//!
//! ```compile_fail,E0308
//! fn completed(pool: libdma::Pool<u64>, number: libdma::Iova) {
//!     pool.take(number);
//! }
//! ```
//!
//! ```compile_fail,E0308
//! fn completed(mut stream: libdma::RawStream, number: libdma::Iova) {
//!     stream.unmap_single(number, 1500, libdma::Access::Read);
//! }
//! ```
//!
//! ```compile_fail,E0308
//! fn unmap(device: libdma::Device, number: libdma::Iova) {
//!     device.unmap(&[libdma::Mapped::new(number, 4096)]);
//! }
//! ```
//!
//! nor made one without its device:
//!
//! ```compile_fail,E0277
//! let address: libdma::BusAddress = libdma::Iova::new(0x1000).into();
//! ```
//!
//! ```compile_fail,E0423
//! fn forged(space: libdma::AddressSpace) -> libdma::BusAddress {
//!     libdma::BusAddress(space, libdma::Iova::new(0x1000))
//! }
//! ```
//!
//! nor is an I/O address a number before its device was named:
//!
//! ```compile_fail,E0605
//! fn register(address: libdma::IoAddress<'_>) -> u64 {
//!     address as u64
//! }
//! ```
//!
//! and no [`IoAddress`] outlives what is mapped there:
//!
//! ```compile_fail,E0505
//! fn stale(buffer: libdma::Buffer) {
//!     let address = buffer.io_address();
//!     drop(buffer);
//!     println!("{address:?}");
//! }
//! ```
//!
//! [`Device`]: crate::Device
//! [`Iova`]: crate::Iova
//! [`Device::unmap`]: crate::Device::unmap
//! [`Device::map_at`]: crate::Device::map_at
//! [`Device::lookup`]: crate::Device::lookup
//! [`Device::bus_address`]: crate::Device::bus_address
//! [`Device::offer_bar`]: crate::Device::offer_bar

mod bus;
mod held;
mod space;

pub use bus::BusAddress;
pub use held::IoAddress;
pub use space::{AddressSpace, WrongDevice};
