//! A machine, a service on it, and its devices.

use std::sync::Arc;
use std::time::Duration;

use dma_types::{Iova, PciAddress};
use iommu_engine::policy::{Policy, WithoutIommu};
use iommu_service::{Caller, HandleId, Service, Settings};
use iommu_sim::amdvi::AmdviConfig;
use iommu_sim::{Blocked, MachineConfig};
use iommud::platform::sim::{SimPlatform, Usage};
use libdma::transport::Transport;
use libdma::{Access, Device, Error, Handle};
use spin::Mutex;

use crate::tap::Tap;

/// Who clients are.
pub const ROOT: Caller = Caller { uid: 0 };

/// A service that tests look into, too.
pub type Shared = Arc<Mutex<Service<SimPlatform>>>;

/// The first simulated device, which every machine has.
pub fn edu() -> PciAddress {
    PciAddress::from_source(0, dma_types::SourceId::new(0x0010))
}

/// The second, behind the root port.
pub fn second_edu() -> PciAddress {
    PciAddress::from_source(0, dma_types::SourceId::new(0x0100))
}

/// A simulated machine with iommud's service on it.
#[derive(Debug)]
pub struct Machine {
    /// The service, to look at, and for tests that play iommud's part: a handle of libdma's that is closed here takes the
    /// memory from beneath its buffer.
    pub service: Shared,
    /// Its client in this process.
    pub client: Arc<Tap>,
}

impl Machine {
    /// A machine whose devices are behind Intel VT-d.
    pub fn vtd() -> Self {
        Self::start(MachineConfig::default().with_root_port(), Policy::default())
    }

    /// A machine whose devices are behind AMD-Vi.
    pub fn amdvi() -> Self {
        let config = MachineConfig::with_amdvi(AmdviConfig::default());
        Self::start(config.with_root_port(), Policy::default())
    }

    /// A machine without an IOMMU, whose administrator lets drivers be served all the same.
    pub fn without_iommu() -> Self {
        let policy = Policy { without_iommu: WithoutIommu::Unprotected, ..Policy::default() };
        Self::start(MachineConfig::without_units().with_root_port(), policy)
    }

    /// A machine whose first device is of PCI Express, and can be reset.
    ///
    /// # Panics
    ///
    /// If there is no first device.
    pub fn resettable() -> Self {
        let mut config = MachineConfig::default().with_root_port();
        let edu = config.edus.first_mut().expect("an edu");
        edu.express = Some(iommu_sim::pci::ExpressKind::IntegratedEndpoint);
        Self::start(config, Policy::default())
    }

    /// One of each of the above.
    pub fn each() -> [Self; 3] {
        [Self::vtd(), Self::amdvi(), Self::without_iommu()]
    }

    /// This machine, under this policy.
    ///
    /// # Panics
    ///
    /// If the service does not start on it.
    pub fn start(config: MachineConfig, policy: Policy) -> Self {
        Self::on(SimPlatform::new(config).expect("the simulated machine's memory"), policy)
    }

    /// The same with a clock that only [`SimPlatform::advance_time`] moves.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_with_manual_clock(config: MachineConfig, policy: Policy) -> Self {
        let platform = SimPlatform::with_manual_clock(config);
        Self::on(platform.expect("the simulated machine's memory"), policy)
    }

    fn on(platform: SimPlatform, policy: Policy) -> Self {
        let functions: Vec<_> = platform.machine().functions().collect();
        for function in functions {
            make_master(&platform, function);
        }
        let settings = Settings { lines: vec![("platform", "test".into())], policy };
        let service = Arc::new(Mutex::new(started(platform, settings.clone())));
        let client = Arc::new(Tap::new(service.clone(), settings));
        Self { service, client }
    }

    /// What leads to the service.
    pub fn transport(&self) -> Arc<dyn Transport> {
        self.client.clone()
    }

    /// Opens the first device, and lets it be a bus master, as its driver does.
    ///
    /// # Panics
    ///
    /// If it cannot be opened.
    pub fn open(&self) -> Device {
        self.open_at(edu()).expect("a device that nobody holds")
    }

    /// Opens a device, and lets it be a bus master.
    ///
    /// # Errors
    ///
    /// As [`Device::open`].
    pub fn open_at(&self, address: PciAddress) -> Result<Device, Error> {
        let device = Device::open(self.transport(), address)?;
        make_master(self.service.lock().platform(), address);
        Ok(device)
    }

    /// Maps a page for a device and unmaps it. From then on its domain keeps the tables of an address, which
    /// [`usage`](Self::usage) tells.
    ///
    /// # Panics
    ///
    /// If it cannot be mapped.
    pub fn make_tables(&self, device: &Device) {
        drop(device.allocate(4096, Some(Access::Read), "first").expect("a page"));
    }

    /// Ends a device's session under its driver's hands, as an administrator's or a keeper's mistake would: its handle is
    /// one no more.
    pub fn end_session(&self, device: &Device) {
        self.service.lock().close(HandleId(device.handle().raw().number()));
    }

    /// Has iommud die and a successor take its place.
    pub fn restart(&self) {
        self.client.restart();
    }

    /// What the first device reads there.
    ///
    /// # Errors
    ///
    /// That the IOMMU kept it from doing so.
    pub fn device_reads(&self, iova: Iova, bytes: usize) -> Result<Vec<u8>, Blocked> {
        self.reads(edu(), iova, bytes)
    }

    /// The first device writes there.
    ///
    /// # Errors
    ///
    /// As [`device_reads`](Self::device_reads).
    pub fn device_writes(&self, iova: Iova, data: &[u8]) -> Result<(), Blocked> {
        self.writes(edu(), iova, data)
    }

    /// What a device reads there.
    ///
    /// # Errors
    ///
    /// As [`device_reads`](Self::device_reads).
    pub fn reads(&self, who: PciAddress, iova: Iova, bytes: usize) -> Result<Vec<u8>, Blocked> {
        let mut data = vec![0; bytes];
        let service = self.service.lock();
        service.platform().machine_mut().dma_read(who, iova.get(), &mut data)?;
        Ok(data)
    }

    /// A device writes there.
    ///
    /// # Errors
    ///
    /// As [`device_reads`](Self::device_reads).
    pub fn writes(&self, who: PciAddress, iova: Iova, data: &[u8]) -> Result<(), Blocked> {
        self.service.lock().platform().machine_mut().dma_write(who, iova.get(), data)
    }

    /// All of a text node.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn text(&self, path: &str) -> String {
        read(&self.transport(), path).expect("a node of this path")
    }

    /// What is given out, after everything that waits has been confirmed. A clock that stands still is moved for that.
    pub fn usage(&self) -> Usage {
        let mut service = self.service.lock();
        while service.is_waiting() {
            service.platform_mut().advance_time(Duration::from_micros(100));
            service.poll();
        }
        service.poll();
        service.platform().usage()
    }

    /// Asserts that the simulated hardware has nothing to complain about: no access to freed memory, no memory freed
    /// that was not taken, nothing that the specifications forbid.
    ///
    /// # Panics
    ///
    /// If it has.
    pub fn check(&self) {
        let usage = self.usage();
        assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0));
        let service = self.service.lock();
        assert_eq!(service.platform().machine().violations(), Vec::<String>::new());
    }
}

/// A service on this platform that is up.
pub(crate) fn started(platform: SimPlatform, settings: Settings) -> Service<SimPlatform> {
    let Ok(mut service) = Service::start(platform, settings) else { panic!("no IOMMU") };
    while !service.engine().is_settled() {
        service.poll();
    }
    service
}

/// Memory and I/O decoding, and bus mastering: PCI's command register, bits 1 and 2.
fn make_master(platform: &SimPlatform, function: PciAddress) {
    platform.machine_mut().config_write(function, 4, 6);
}

/// All of a text node.
///
/// # Errors
///
/// Why it cannot be opened or read.
pub fn read(transport: &Arc<dyn Transport>, path: &str) -> Result<String, Error> {
    let handle = Handle::open(transport.clone(), path)?;
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match handle.read(text.len() as u64, &mut piece)? {
            0 => return String::from_utf8(text).map_err(|_| Error::BadValue),
            length => text.extend_from_slice(&piece[..length]),
        }
    }
}
