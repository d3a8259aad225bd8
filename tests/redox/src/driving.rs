//! A case that is a driver itself, on libdma, where it is about what no job of edud's does.

use agent::bench::Bench;
use agent::failure::{Failure, Outcome, require};
use dma_types::Iova;
use driver_platform::connect;
use edud::Direction;
use edud::daemon::{Driver, function};
use edud::registers::ADDRESS_BITS;
use libdma::{Coherent, Device};

/// How long what is moved to see whether it can be is.
pub(crate) const LENGTH: usize = 16;

/// Takes the device over: its channel at pcid, its session at iommud, its registers.
pub(crate) fn drive(bench: &Bench) -> Outcome<Driver> {
    drive_with(bench, ADDRESS_BITS)
}

/// The same, with a device of so many address bits.
pub(crate) fn drive_with(bench: &Bench, address_bits: u32) -> Outcome<Driver> {
    drive_device(&bench.device, address_bits)
}

/// The same by the device's name.
pub(crate) fn drive_device(name: &str, address_bits: u32) -> Outcome<Driver> {
    let address = name.parse().map_err(|_| Failure(format!("{name} is no PCI address")))?;
    let function = function::find(Some(address))?;
    let mut device = Device::open(connect()?, address)?;
    device.set_dma_mask(address_bits)?;
    Ok(Driver::new(device, Box::new(function::switch_on(function)?))?)
}

/// A driver, with memory by which bytes come into its device.
pub(crate) struct Courier {
    pub(crate) driver: Driver,
    out: Coherent<[u8]>,
}

impl Courier {
    /// For this device.
    pub(crate) fn new(driver: Driver) -> Outcome<Self> {
        let out = driver.device().coherent("courier").bytes(LENGTH)?;
        Ok(Self { driver, out })
    }

    /// Lets the device write these bytes to an address, whether it may or not.
    pub(crate) fn carry(&mut self, bytes: &[u8; LENGTH], to: Iova) -> Outcome {
        self.load(bytes)?;
        self.put(to)
    }

    /// Lets the device have these bytes.
    pub(crate) fn load(&mut self, bytes: &[u8; LENGTH]) -> Outcome {
        self.out.copy_from(0, bytes)?;
        Ok(self.driver.transfer(Direction::ToDevice, self.out.iova(), LENGTH)?)
    }

    /// What the device reads at an address.
    pub(crate) fn fetch<const N: usize>(&mut self, from: Iova) -> Outcome<[u8; N]> {
        self.driver.transfer(Direction::ToDevice, from, N)?;
        self.driver.transfer(Direction::FromDevice, self.out.iova(), N)?;
        let mut found = [0; LENGTH];
        self.out.copy_to(0, &mut found)?;
        found.first_chunk().copied().ok_or_else(|| Failure(format!("{N} bytes are too many")))
    }

    /// Lets it write what it has.
    pub(crate) fn put(&mut self, to: Iova) -> Outcome {
        Ok(self.driver.transfer(Direction::FromDevice, to, LENGTH)?)
    }
}

/// That memory holds just these bytes.
pub(crate) fn expect(found: [u8; LENGTH], expected: &[u8; LENGTH], what: &str) -> Outcome {
    require!(found == *expected, "{what} holds {found:x?} and not {expected:x?}");
    Ok(())
}
