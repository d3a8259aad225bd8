//! A transport whose device goes through the IOMMU.

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::error::Error;

/// `VIRTIO_F_ACCESS_PLATFORM` (Virtio 1.2, 6): the device uses the platform's ways to reach memory, the IOMMU among
/// them, and takes no physical addresses.
const ACCESS_PLATFORM: u64 = 1 << 33;

/// How often the status is read before a reset is given up. A read of a register takes around a microsecond.
const RESET_READS: u32 = 1_000_000;

/// A transport whose device goes through the IOMMU.
///
/// A virtio device does so only if its driver accepts `VIRTIO_F_ACCESS_PLATFORM`. virtio-drivers 0.13 accepts it for no
/// device; this accepts it on behalf of the driver above. A device that does not offer it takes every address for a
/// physical one (Virtio 1.2, 6.1), past the IOMMU: where there is an IOMMU, there is no such transport for it.
///
/// [`DeviceHal::translate`](super::DeviceHal::translate) makes it, and resets the device first, as virtio-drivers
/// does without waiting for the end of it (Virtio 1.2, 4.1.4.3.2): what rings a driver before left in the device must
/// be forgotten before memory is mapped where they were.
#[derive(Debug)]
pub struct Translated<T> {
    transport: T,
    /// What the device offers, of [`ACCESS_PLATFORM`].
    offered: u64,
}

impl<T: Transport> Translated<T> {
    pub(super) fn new(mut transport: T, is_confined: bool) -> core::result::Result<Self, Error> {
        transport.set_status(DeviceStatus::empty());
        let mut statuses = (0..RESET_READS).map(|_| transport.get_status());
        if !statuses.any(|status| status.is_empty()) {
            return Err(Error::NoReset);
        }
        let offered = transport.read_device_features() & ACCESS_PLATFORM;
        if is_confined && offered == 0 {
            return Err(Error::NotTranslated);
        }
        Ok(Self { transport, offered })
    }
}

impl<T: Transport> Transport for Translated<T> {
    fn write_driver_features(&mut self, driver_features: u64) {
        self.transport.write_driver_features(driver_features | self.offered);
    }

    fn device_type(&self) -> DeviceType {
        self.transport.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.transport.read_device_features()
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.transport.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.transport.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.transport.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.transport.set_status(status);
    }

    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.transport.set_guest_page_size(guest_page_size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.transport.requires_legacy_layout()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.transport.queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.transport.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.transport.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.transport.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.transport.read_config_generation()
    }

    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V> {
        self.transport.read_config_space(offset)
    }

    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: V,
    ) -> Result<()> {
        self.transport.write_config_space(offset, value)
    }
}
