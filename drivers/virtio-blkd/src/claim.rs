//! A disk found, opened at iommud and reset.

use std::env;

use dma_types::PciAddress;
use libdma::Device;
use libdma::handle::DEVICE_VARIABLE;
use virtio_drivers::Hal;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::PciRoot;

use super::disk::Disk;
use super::error::Error;
use super::hal::DiskHal;
use super::platform::{self, Function};
use super::space::place;

/// A disk that was found and opened at iommud: from now on it reaches only what this process gives it.
pub(crate) struct Claim {
    device: Device,
    function: Function,
}

impl Claim {
    /// Finds the disk and opens it, or takes over the handle that was passed.
    pub(crate) fn new(wanted: Option<PciAddress>) -> Result<Self, Error> {
        let passed = match env::var(DEVICE_VARIABLE) {
            Ok(number) => Some(Device::from_handle(platform::adopt(&number)?)?),
            Err(_) => None,
        };
        let function = Function::find(wanted.or(passed.as_ref().map(Device::address)))?;
        let address = function.address();
        let device = match passed {
            Some(device) if device.address() == address => device,
            Some(device) => {
                return Err(Error::OtherDevice { passed: device.address(), wanted: address });
            }
            None => platform::connect()
                .and_then(|transport| Device::open(transport, address))
                .map_err(|error| Error::Open { address, error })?,
        };
        Ok(Self { device, function })
    }

    /// The device at iommud.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Takes the disk over, and starts it with memory of this `Hal`.
    pub(crate) fn drive<H: Hal>(mut self) -> Result<Disk<H>, Error> {
        DiskHal::bind(&self.device)?;
        self.function.let_answer()?;
        let space = self.function.space()?;
        for bar in space.memory_bars() {
            let memory = self.function.map(&bar)?;
            // SAFETY: it was mapped just now, uncached and whole, for this alone, and stays mapped.
            unsafe { DiskHal::add_registers(bar.address, memory, bar.bytes as usize) };
        }
        let mut root = PciRoot::new(space);
        let transport = PciTransport::new::<DiskHal, _>(&mut root, place(self.device.address()))
            .map_err(Error::Registers)?;
        // Here the disk is reset, so that it forgets what a driver before left in it.
        let transport = DiskHal::translate(transport)?;
        self.function.let_master()?;
        Disk::start(transport)
    }
}
