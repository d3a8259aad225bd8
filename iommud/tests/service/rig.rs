//! A machine, a service on it, and clients.

use std::sync::Arc;

use dma_types::PciAddress;
use iommu_engine::policy::Policy;
use iommu_service::in_process::InProcess;
use iommu_service::{Caller, Service, Settings};
use iommu_sim::{Blocked, MachineConfig};
use iommud::platform::sim::{SimPlatform, Usage};
use libdma::transport::Transport;
use libdma::{Device, Error, Handle};
use spin::Mutex;

use crate::vendor::Vendor;

/// The simulated edu device.
pub(crate) fn edu() -> PciAddress {
    "0000:00:02.0".parse().unwrap()
}

pub(crate) const ROOT: Caller = Caller { uid: 0 };

pub(crate) type Shared = Arc<Mutex<Service<SimPlatform>>>;

pub(crate) struct Rig {
    pub(crate) service: Shared,
    pub(crate) client: Arc<InProcess<SimPlatform>>,
}

impl Rig {
    pub(crate) fn new(vendor: Vendor) -> Self {
        Self::on(vendor.machine())
    }

    pub(crate) fn on(config: MachineConfig) -> Self {
        Self::with(config, Policy::default())
    }

    pub(crate) fn with(config: MachineConfig, policy: Policy) -> Self {
        let platform = SimPlatform::new(config).unwrap();
        let functions: Vec<_> = platform.machine().functions().collect();
        for function in functions {
            platform.machine_mut().config_write(function, 4, 6);
        }
        let settings = Settings { lines: vec![("platform", "test".into())], policy };
        let Ok(service) = Service::start(platform, settings) else { panic!("no IOMMU") };
        let service = Arc::new(Mutex::new(service));
        while !service.lock().engine().is_settled() {
            service.lock().poll();
        }
        // SAFETY: tests close buffers by dropping them, and free no runs of the platform's.
        let client = Arc::new(unsafe { InProcess::new(service.clone(), ROOT) });
        Self { service, client }
    }

    pub(crate) fn transport(&self) -> Arc<dyn Transport> {
        self.client.clone()
    }

    /// Opens edu, and lets it be a bus master, as its driver does.
    pub(crate) fn open(&self) -> Device {
        let device = Device::open(self.transport(), edu()).unwrap();
        self.service.lock().platform_mut().machine_mut().config_write(edu(), 4, 6);
        device
    }

    pub(crate) fn open_again(&self) -> Result<Device, Error> {
        Device::open(self.transport(), edu())
    }

    pub(crate) fn text(&self, path: &str) -> String {
        read(&self.transport(), path).unwrap()
    }

    pub(crate) fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.text(&format!("{path}.json"))).unwrap()
    }

    pub(crate) fn device_writes(&self, iova: u64, data: &[u8]) -> Result<(), Blocked> {
        self.service.lock().platform().machine_mut().dma_write(edu(), iova, data)
    }

    pub(crate) fn device_reads(&self, iova: u64, bytes: usize) -> Result<Vec<u8>, Blocked> {
        let mut data = vec![0; bytes];
        let service = self.service.lock();
        let result = service.platform().machine_mut().dma_read(edu(), iova, &mut data);
        result.map(|()| data)
    }

    /// What is given out, after everything that waits has been confirmed.
    pub(crate) fn usage(&self) -> Usage {
        let mut service = self.service.lock();
        while service.is_waiting() {
            service.poll();
        }
        service.poll();
        service.platform().usage()
    }

    /// What the simulator thinks of how it was treated: nothing to complain about.
    pub(crate) fn check(&self) {
        let usage = self.usage();
        assert_eq!((usage.freed_accesses, usage.bad_frees), (0, 0));
        let service = self.service.lock();
        assert_eq!(service.platform().machine().violations(), Vec::<String>::new());
    }
}

/// All of a text node.
pub(crate) fn read(transport: &Arc<dyn Transport>, path: &str) -> Result<String, Error> {
    let handle = Handle::open(transport.clone(), path)?;
    let mut text = Vec::new();
    let mut piece = [0; 100];
    loop {
        match transport.read(handle.raw(), text.len() as u64, &mut piece)? {
            0 => return Ok(String::from_utf8(text).unwrap()),
            length => text.extend_from_slice(&piece[..length]),
        }
    }
}
