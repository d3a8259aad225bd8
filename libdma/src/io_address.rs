//! I/O addresses that know which device they are of.
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
//!   ([`Device::offer_register_window`]), which names them by BAR and offset and not by where they are;
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
//! nor is an I/O address a number before its device was named:
//!
//! ```compile_fail,E0605
//! fn register(address: libdma::IoAddress<'_>) -> u64 {
//!     address as u64
//! }
//! ```
//!
//! and none outlives what is mapped there:
//!
//! ```compile_fail,E0505
//! fn stale(buffer: libdma::Buffer) {
//!     let address = buffer.io_address();
//!     drop(buffer);
//!     println!("{address:?}");
//! }
//! ```

use core::fmt;

use dma_types::{Iova, PciAddress};
use thiserror::Error as ThisError;

use crate::device::Device;
use crate::protocol::Error;
use crate::session::Session;

/// Where a device sees memory, and how much there is from there on. It holds on to what is mapped there.
///
/// See the [module](self) for what it is for.
#[derive(Clone, Copy)]
pub struct IoAddress<'a> {
    start: Iova,
    bytes: u64,
    session: &'a Session,
}

/// An I/O address was to be used with another device than the one that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
#[error(
    "this I/O address is of {of} (session {of_session}) and means nothing to {given_to} (session {to_session}): \
     attach the buffer to that device"
)]
pub struct WrongDevice {
    /// The device that it is of.
    pub of: PciAddress,
    /// Which session of that device.
    pub of_session: u64,
    /// The device that it was to be used with.
    pub given_to: PciAddress,
    /// Which session of that device.
    pub to_session: u64,
}

impl From<WrongDevice> for Error {
    fn from(_: WrongDevice) -> Self {
        Self::WrongOwner
    }
}

impl<'a> IoAddress<'a> {
    /// Where a session's device sees the `bytes` bytes that were mapped for it at `start`.
    pub(crate) const fn new(session: &'a Session, start: Iova, bytes: u64) -> Self {
        Self { start, bytes, session }
    }

    /// The number, for the registers and descriptors of this device, and of no other.
    ///
    /// # Errors
    ///
    /// [`WrongDevice`] if the address is of another device, or of another session of it: what was mapped for a session
    /// ended with it. It turns into [`Error::WrongOwner`].
    pub fn for_device(&self, device: &Device) -> Result<Iova, WrongDevice> {
        let other = device.session();
        if self.session.is_the_same_as(other) {
            return Ok(self.start);
        }
        Err(WrongDevice {
            of: self.session.address(),
            of_session: self.session.generation(),
            given_to: other.address(),
            to_session: other.generation(),
        })
    }

    /// The device that it is of.
    pub fn device(&self) -> PciAddress {
        self.session.address()
    }

    /// How many bytes the device can reach from there on.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The address `offset` bytes further on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBuffer`] if nothing of what is mapped there is left.
    pub fn at(&self, offset: u64) -> Result<Self, Error> {
        let bytes = self.bytes.checked_sub(offset).filter(|left| *left > 0);
        let start = self.start.checked_add(offset);
        match (start, bytes) {
            (Some(start), Some(bytes)) => Ok(Self { start, bytes, ..*self }),
            _ => Err(Error::OutOfBuffer),
        }
    }

    /// The first `bytes` bytes, or all if there are fewer.
    pub fn first(&self, bytes: u64) -> Self {
        Self { bytes: self.bytes.min(bytes), ..*self }
    }

    pub(crate) const fn start(&self) -> Iova {
        self.start
    }
}

impl fmt::Debug for IoAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}, {} bytes", self.start, self.session.address(), self.bytes)
    }
}
