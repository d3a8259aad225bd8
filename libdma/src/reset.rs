//! Devices that start afresh under their drivers.
//!
//! A device may be reset by whoever administers it, and then is not in the state any more that its driver has left it in. Each
//! handle to a device is of a [generation](Device::generation). When that has passed, requests on it are
//! [`Error::DeviceReset`], until its holder says that it knows: by [`Device::renew`], and by setting the device up anew.
//!
//! What is mapped stays mapped, and memory keeps what is in it. What needs no request, as everything that comes from windows
//! and pools, notices nothing.
//!
//! ```
//! use libdma::{Access, Device, Error};
//!
//! # let machine = simulated::Machine::resettable();
//! # let device = machine.open();
//! let other = Device::from_handle(device.derive(libdma::protocol::Rights::DEVICE)?)?;
//! let ring = device.allocate(4096, Some(Access::Read), "ring")?;
//! let before = device.generation();
//!
//! device.reset()?;
//! assert!(device.generation() > before);
//!
//! // Whoever else holds a handle to it learns of it, and is to say that it has.
//! let refused = other.allocate(4096, None, "of before");
//! assert_eq!(refused.err(), Some(Error::DeviceReset));
//! assert_eq!(other.renew()?, device.generation());
//! # drop((ring, other, device));
//! # machine.check();
//! # Ok::<(), Error>(())
//! ```

use crate::device::Device;
use crate::protocol::Error;
use crate::protocol::call::Opcode;
use crate::protocol::handle::Reset;

impl Device {
    /// Resets the device: Linux's `pci_reset_function`. It does not master the bus any more, and its function is reset by
    /// PCI Express or by Advanced Features. When this returns it may be used again, which takes at least 100 ms; its BARs are
    /// where they were, and the rest is for its driver to set up again, bus mastering included.
    ///
    /// All other holders of the device learn of it by [`Error::DeviceReset`]; this one is [renewed](Self::renew).
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] without [`Rights::ADMINISTER`](crate::protocol::Rights::ADMINISTER), [`Error::NoReset`] if the
    /// function has no such reset, and nothing was done; [`Error::TooManyRequests`] while it is being reset.
    /// [`Error::TimedOut`] if it does not answer a second later.
    pub fn reset(&self) -> Result<(), Error> {
        let _: Reset = self.handle().call(Opcode::Reset, &Reset::default())?;
        self.renew().map(drop)
    }

    /// Says that this holder knows that the device has started afresh: its [generation](Self::generation) from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Revoked`], [`Error::DaemonGone`].
    pub fn renew(&self) -> Result<u64, Error> {
        self.session().renew()
    }
}
