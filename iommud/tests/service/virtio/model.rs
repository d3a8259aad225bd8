//! A virtio disk: what a device does, and no IOMMU (Virtio 1.2, 2.7 for the queue, 5.2 for the disk).
//!
//! It reaches memory as the simulated `edu` does, by requests on the bus. It has nothing of virtio-drivers' but the
//! trait by which that speaks to its registers.

use std::sync::{Arc, Mutex};

use iommu_sim::Blocked;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use simulated::Shared;

use crate::rig::edu;

pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const ACCESS_PLATFORM: u64 = 1 << 33;
pub(super) const INDIRECT: u64 = 1 << 28;

const SECTOR: usize = 512;

/// What of the disk can be seen from outside.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) sectors: Vec<u8>,
    /// What the driver accepted.
    pub(super) accepted: u64,
    /// Where data came from or went to.
    pub(super) data: Vec<u64>,
    pub(super) blocked: Vec<Blocked>,
    pub(super) resets: u32,
}

pub(super) struct Disk {
    pub(super) service: Shared,
    pub(super) offered: u64,
    /// It never says that a reset has ended.
    pub(super) is_stuck: bool,
    pub(super) seen: Arc<Mutex<Seen>>,
    status: DeviceStatus,
    size: u16,
    descriptors: u64,
    driver_area: u64,
    device_area: u64,
    done: u16,
}

struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;

    fn parse(bytes: &[u8]) -> Self {
        Self {
            address: u64::from_le_bytes(bytes[..8].try_into().unwrap()),
            length: u32::from_le_bytes(bytes[8..12].try_into().unwrap()),
            flags: u16::from_le_bytes(bytes[12..14].try_into().unwrap()),
            next: u16::from_le_bytes(bytes[14..16].try_into().unwrap()),
        }
    }
}

impl Disk {
    pub(super) fn new(service: Shared, sectors: usize) -> Self {
        let seen = Seen { sectors: vec![0; sectors * SECTOR], ..Seen::default() };
        Self {
            service,
            offered: VERSION_1 | ACCESS_PLATFORM,
            is_stuck: false,
            seen: Arc::new(Mutex::new(seen)),
            status: DeviceStatus::empty(),
            size: 0,
            descriptors: 0,
            driver_area: 0,
            device_area: 0,
            done: 0,
        }
    }

    fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let service = self.service.lock();
        let result = service.platform().machine_mut().dma_read(edu(), address, &mut bytes);
        self.seen.lock().unwrap().blocked.extend(result.err());
        bytes
    }

    fn read16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().unwrap())
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let service = self.service.lock();
        let result = service.platform().machine_mut().dma_write(edu(), address, bytes);
        self.seen.lock().unwrap().blocked.extend(result.err());
    }

    /// All descriptors of a chain.
    fn chain(&self, head: u16) -> Vec<Descriptor> {
        let mut table = self.descriptors;
        let mut next = Some(head);
        let mut chain = Vec::new();
        while let Some(index) = next {
            let found = Descriptor::parse(&self.read(table + 16 * u64::from(index), 16));
            if found.flags & Descriptor::INDIRECT != 0 {
                (table, next) = (found.address, Some(0));
                continue;
            }
            next = (found.flags & Descriptor::NEXT != 0).then_some(found.next);
            chain.push(found);
            assert!(chain.len() <= 64, "the chain has no end");
        }
        chain
    }

    /// Carries a request out: a header, data in either direction, and a byte for how it went. How much was written.
    fn carry_out(&self, chain: &[Descriptor]) -> u32 {
        let [header, data @ .., status] = chain else { panic!("no request: {}", chain.len()) };
        let header = self.read(header.address, 16);
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        let mut at = u64::from_le_bytes(header[8..].try_into().unwrap()) as usize * SECTOR;
        let mut written = 1;
        let mut went_well = true;
        for piece in data {
            let length = piece.length as usize;
            self.seen.lock().unwrap().data.push(piece.address);
            if at + length > self.seen.lock().unwrap().sectors.len() {
                went_well = false;
                break;
            }
            if kind == 1 {
                let bytes = self.read(piece.address, length);
                self.seen.lock().unwrap().sectors[at..at + length].copy_from_slice(&bytes);
            } else {
                assert_ne!(piece.flags & Descriptor::WRITE, 0);
                let bytes = self.seen.lock().unwrap().sectors[at..at + length].to_vec();
                self.write(piece.address, &bytes);
                written += piece.length;
            }
            at += length;
        }
        self.write(status.address, &[u8::from(!went_well)]);
        written
    }
}

impl Transport for Disk {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn read_device_features(&mut self) -> u64 {
        self.offered
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.seen.lock().unwrap().accepted = driver_features;
    }

    fn max_queue_size(&mut self, _queue: u16) -> u32 {
        256
    }

    fn notify(&mut self, _queue: u16) {
        let available = self.read16(self.driver_area + 2);
        while self.done != available {
            let slot = u64::from(self.done % self.size);
            let head = self.read16(self.driver_area + 4 + 2 * slot);
            let chain = self.chain(head);
            let written = self.carry_out(&chain);
            let used = [u32::from(head).to_le_bytes(), written.to_le_bytes()].concat();
            self.write(self.device_area + 4 + 8 * slot, &used);
            self.done = self.done.wrapping_add(1);
            self.write(self.device_area + 2, &self.done.to_le_bytes());
        }
    }

    fn get_status(&self) -> DeviceStatus {
        if self.is_stuck { DeviceStatus::DRIVER_OK } else { self.status }
    }

    fn set_status(&mut self, status: DeviceStatus) {
        if status.is_empty() {
            (self.descriptors, self.done) = (0, 0);
            self.seen.lock().unwrap().resets += 1;
        }
        self.status = status;
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        _queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.size = size as u16;
        (self.descriptors, self.driver_area, self.device_area) =
            (descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, _queue: u16) {}

    fn queue_used(&mut self, _queue: u16) -> bool {
        self.descriptors != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    /// The capacity in sectors, in 8 bytes; all else is zero.
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let capacity = (self.seen.lock().unwrap().sectors.len() / SECTOR) as u64;
        let mut config = [0; 64];
        config[..8].copy_from_slice(&capacity.to_le_bytes());
        Ok(T::read_from_bytes(&config[offset..offset + size_of::<T>()]).ok().unwrap())
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> Result<()> {
        Ok(())
    }
}
