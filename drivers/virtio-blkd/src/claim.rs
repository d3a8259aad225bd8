//! A disk found, opened at iommud and reset.

use core::ptr::NonNull;

use dma_types::PciAddress;
use driver_platform::Function;
use libdma::Device;
use virtio_drivers::Hal;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::PciRoot;

use super::disk::Disk;
use super::error::Error;
use super::hal::DiskHal;
use super::space::{Space, place};

/// The vendor of all virtio devices (Virtio 1.2, 4.1.2).
const VENDOR: u16 = 0x1af4;
/// A disk, and a disk that older drivers can drive too.
const DEVICES: [u16; 2] = [0x1042, 0x1001];

/// A disk that was found and opened at iommud: from now on it reaches only what this process gives it.
pub(crate) struct Claim {
    device: Device,
    function: Function,
}

impl Claim {
    /// Finds the disk and opens it, or takes over the handle that was passed.
    pub(crate) fn new(wanted: Option<PciAddress>) -> Result<Self, Error> {
        let passed = driver_platform::passed()?;
        let wanted = wanted.or(passed.as_ref().map(Device::address));
        let mut function = Function::find(wanted, is_disk)?.ok_or(Error::NoDevice)?;
        let address = function.address();
        if !is_disk(function.identity()?) {
            return Err(Error::NotADisk(address));
        }
        let device = driver_platform::open(address, passed)?;
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
        let space = Space::new(self.function.words()?, self.function.bar_bytes());
        for bar in space.memory_bars() {
            let memory: NonNull<[u8]> = self.function.map(bar.number)?;
            // SAFETY: it was mapped just now, uncached and whole, for this alone, and stays mapped.
            unsafe { DiskHal::add_registers(bar.address, memory.cast(), memory.len()) };
        }
        let mut root = PciRoot::new(space);
        let transport = PciTransport::new::<DiskHal, _>(&mut root, place(self.device.address()))
            .map_err(Error::Registers)?;
        // Here the disk is reset, so that it forgets what a driver before left in it.
        let transport = DiskHal::translate(transport)?;
        self.function.let_master()?;
        self.function.keep();
        Disk::start(transport)
    }
}

/// Whether a function is a virtio disk, by the first word of its configuration space.
fn is_disk(identity: u32) -> bool {
    let [vendor, device] = [identity as u16, (identity >> 16) as u16];
    vendor == VENDOR && DEVICES.contains(&device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_known_by_what_they_are() {
        assert!(is_disk(0x1042_1af4) && is_disk(0x1001_1af4));
        assert!(!is_disk(0x1041_1af4) && !is_disk(0x1042_8086) && !is_disk(u32::MAX));
    }
}
