//! Addresses that outlive what is mapped there.

use core::fmt;

use dma_types::Iova;

use super::{AddressSpace, WrongDevice};
use crate::device::Device;
use crate::domain::Domain;

/// Where a device sees memory, and which device: a plain value, for a driver that keeps nothing but addresses.
///
/// It does not hold on to what is mapped there, as an [`IoAddress`](super::IoAddress) does. What it stands for is told by
/// whoever made it, and given back to that: a block of a [`Pool`](crate::Pool), what a [`RawStream`](crate::RawStream) mapped,
/// a [`Mapped`](crate::Mapped).
///
/// ```
/// # let machine = simulated::Machine::amdvi();
/// # let device = machine.open();
/// # let card = machine.open_at(simulated::second_edu())?;
/// let pool = device.pool("commands").bytes(64)?;
/// let command = pool.alloc()?.into_address();
/// let register = command.for_device(&device)?.get();      // the number, for that device's register
/// assert_eq!(
///     card.pool("frames").bytes(64)?.free(command).unwrap_err().to_string(),
///     "this I/O address is of 0000:00:02.0 (session 1) and means nothing to 0000:01:00.0 (session 2): \
///      attach the buffer to that device",
/// );
/// pool.free(command)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusAddress {
    space: AddressSpace,
    iova: Iova,
}

impl BusAddress {
    /// An address of this address space.
    pub(crate) const fn new(space: AddressSpace, iova: Iova) -> Self {
        Self { space, iova }
    }

    /// The number: what a register or a descriptor of its device takes. Nobody asks whose register that is:
    /// [`for_device`](Self::for_device) does.
    pub const fn iova(self) -> Iova {
        self.iova
    }

    /// Whose it is.
    pub const fn space(self) -> AddressSpace {
        self.space
    }

    /// The number, for the registers and descriptors of this device, and of no other.
    ///
    /// # Errors
    ///
    /// [`WrongDevice`] if the address is of another device, of another session of it, or of a [`Domain`].
    pub fn for_device(self, device: &Device) -> Result<Iova, WrongDevice> {
        self.within(device.session().addresses())
    }

    /// The address `offset` bytes further on, or nothing past the last there is. Whether anything is mapped there it does
    /// not know.
    pub fn plus(self, offset: u64) -> Option<Self> {
        Some(Self { iova: self.iova.checked_add(offset)?, ..self })
    }

    /// The number, in this address space.
    pub(crate) fn within(self, space: AddressSpace) -> Result<Iova, WrongDevice> {
        if self.space == space {
            return Ok(self.iova);
        }
        Err(WrongDevice { of: self.space, given_to: space })
    }
}

impl Device {
    /// The address that this device calls so: its driver has the number from the device itself, as from a completion ring, or
    /// has kept it where there is room for no more than that.
    ///
    /// It says whose the number is, and is taken at its word.
    pub fn bus_address(&self, iova: Iova) -> BusAddress {
        BusAddress::new(self.session().addresses(), iova)
    }
}

impl Domain {
    /// The address that devices in this domain call so: see [`Device::bus_address`].
    pub fn bus_address(&self, iova: Iova) -> BusAddress {
        BusAddress::new(self.addresses(), iova)
    }
}

impl fmt::Display for BusAddress {
    /// `0x100000000 of 0000:00:02.0 (session 1)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.iova, self.space)
    }
}

impl fmt::Debug for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
