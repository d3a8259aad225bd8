//! What a platform needs to have for this transport.

use std::os::fd::BorrowedFd;

use iommu_engine::platform::{Platform, RunId};

use crate::platform::linux::Linux;
use crate::platform::sim::SimPlatform;

/// A platform in a Linux process: its memory can be passed on as descriptors.
pub trait Host: Platform {
    /// The descriptor of a run's memory, of which the run is the start.
    fn run_fd(&self, run: RunId) -> Option<BorrowedFd<'_>>;

    /// The simulated machine, where there is one.
    fn simulator(&mut self) -> Option<&mut SimPlatform>;
}

impl Host for Linux {
    fn run_fd(&self, run: RunId) -> Option<BorrowedFd<'_>> {
        Self::run_fd(self, run)
    }

    fn simulator(&mut self) -> Option<&mut SimPlatform> {
        None
    }
}

impl Host for SimPlatform {
    fn run_fd(&self, run: RunId) -> Option<BorrowedFd<'_>> {
        Self::run_fd(self, run)
    }

    fn simulator(&mut self) -> Option<&mut SimPlatform> {
        Some(self)
    }
}
