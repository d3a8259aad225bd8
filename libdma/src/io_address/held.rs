//! Addresses that hold on to what is mapped there.

use core::fmt;

use dma_types::{Iova, PciAddress};

use super::{BusAddress, WrongDevice};
use crate::device::Device;
use crate::protocol::Error;
use crate::session::Session;

/// Where a device sees memory, and how much there is from there on. It holds on to what is mapped there.
///
/// See the [module](super) for what it is for.
#[derive(Clone, Copy)]
pub struct IoAddress<'a> {
    start: Iova,
    bytes: u64,
    session: &'a Session,
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
        self.bus_address().for_device(device)
    }

    /// The same as a plain value, which does not hold on to what is mapped there.
    pub fn bus_address(&self) -> BusAddress {
        BusAddress::new(self.session.addresses(), self.start)
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
