//! The device found and opened at iommud.

use dma_types::PciAddress;
use driver_platform::{Function, connect};
use libdma::Device;

use super::driver::Driver;
use super::error::Error;
use super::function;
use super::options::Options;
use crate::bar::Bar;
use crate::simulated::SimulatedBar;

/// A device that was found and opened at iommud: from now on it reaches only what this process gives it.
/// Its registers have not been touched.
#[derive(Debug)]
pub struct Claim {
    device: Device,
    place: Place,
}

/// Where the device's registers are.
#[derive(Debug)]
enum Place {
    Simulated(PciAddress),
    Machine(Function),
}

impl Claim {
    /// Finds the device and opens it, or takes over the handle that was passed.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`], [`Error::NotEdu`], [`Error::Platform`]; [`Error::Iommud`] if the DMA mask is refused.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let passed = driver_platform::passed()?;
        let wanted = options.device.or(passed.as_ref().map(Device::address));
        let (address, place) = if options.sim {
            // Where the simulated machine has its edu, and QEMU too behind AMD-Vi.
            let address = wanted.or(PciAddress::new(0, 0, 2, 0)).ok_or(Error::NoDevice)?;
            (address, Place::Simulated(address))
        } else {
            let function = function::find(wanted)?;
            (function.address(), Place::Machine(function))
        };
        let mut device = driver_platform::open(address, passed)?;
        device.set_dma_mask(options.dma_mask)?;
        Ok(Self { device, place })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Lets the children of this process inherit what tells them which function it is, besides the device's handle:
    /// a variable and its value, where there is such a thing.
    ///
    /// # Errors
    ///
    /// [`Error::Platform`].
    pub fn let_inherit(&self) -> Result<Option<(&'static str, String)>, Error> {
        match &self.place {
            Place::Simulated(_) => Ok(None),
            Place::Machine(function) => Ok(function.let_inherit()?),
        }
    }

    /// Switches the device on and takes it over.
    ///
    /// # Errors
    ///
    /// [`Error::NotEdu`], [`Error::Device`], [`Error::Platform`].
    pub fn drive(self) -> Result<Driver, Error> {
        let bar: Box<dyn Bar> = match self.place {
            Place::Machine(function) => Box::new(function::switch_on(function)?),
            Place::Simulated(address) => {
                Box::new(SimulatedBar::open(connect()?, address)?.ok_or(Error::NotEdu(address))?)
            }
        };
        Driver::new(self.device, bar)
    }
}
