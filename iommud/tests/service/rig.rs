//! A machine, a service on it, and clients.

use std::ops::Deref;
use std::time::Duration;

use dma_types::Iova;
use iommu_engine::policy::Policy;
use iommu_sim::{Blocked, MachineConfig};
use libdma::{Device, Error};
use simulated::Machine;

use crate::vendor::Vendor;

pub(crate) use simulated::{ROOT, edu, read};

/// A simulated machine, and what tests of the service ask of it.
pub(crate) struct Rig(Machine);

impl Deref for Rig {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0
    }
}

impl Rig {
    pub(crate) fn new(vendor: Vendor) -> Self {
        Self::on(vendor.machine())
    }

    pub(crate) fn on(config: MachineConfig) -> Self {
        Self::with(config, Policy::default())
    }

    pub(crate) fn with(config: MachineConfig, policy: Policy) -> Self {
        Self(Machine::start(config, policy))
    }

    /// On a machine whose clock only [`Rig::pass`] moves.
    pub(crate) fn with_manual_clock(config: MachineConfig, policy: Policy) -> Self {
        Self(Machine::start_with_manual_clock(config, policy))
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.service.lock().platform_mut().advance_time(time);
    }

    pub(crate) fn open_again(&self) -> Result<Device, Error> {
        Device::open(self.transport(), edu())
    }

    pub(crate) fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_str(&self.text(&format!("{path}.json"))).unwrap()
    }

    pub(crate) fn device_writes(&self, iova: u64, data: &[u8]) -> Result<(), Blocked> {
        self.0.device_writes(Iova::new(iova), data)
    }

    pub(crate) fn device_reads(&self, iova: u64, bytes: usize) -> Result<Vec<u8>, Blocked> {
        self.0.device_reads(Iova::new(iova), bytes)
    }
}
