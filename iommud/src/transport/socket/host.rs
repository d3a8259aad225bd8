//! What a platform needs to have for this transport.

use std::os::fd::{BorrowedFd, OwnedFd};

use iommu_engine::platform::{Platform, RunId};
use libdma::Error;

use crate::platform::linux::Linux;
use crate::platform::sealed::{Pages, SealedMemory};
use crate::platform::sim::SimPlatform;
use crate::platform::sim::shared::SharedMemory;

/// A platform in a Linux process: its memory can be passed on as descriptors.
pub trait Host: Platform {
    /// The descriptor of a run's memory, of which the run is the start.
    fn run_fd(&self, run: RunId) -> Option<BorrowedFd<'_>>;

    /// Makes a run of the first `bytes` of memory that a client sent.
    ///
    /// # Errors
    ///
    /// As [`SealedMemory::take`].
    fn supplied_run(&mut self, sent: OwnedFd, bytes: u64) -> Result<RunId, Error>;

    /// The simulated machine, where there is one.
    fn simulator(&mut self) -> Option<&mut SimPlatform>;

    /// Does what is to be done now and then beside serving.
    fn tick(&mut self);
}

impl Host for Linux {
    fn run_fd(&self, run: RunId) -> Option<BorrowedFd<'_>> {
        Self::run_fd(self, run)
    }

    fn supplied_run(&mut self, sent: OwnedFd, bytes: u64) -> Result<RunId, Error> {
        Self::supplied_run(self, sent, bytes)
    }

    fn simulator(&mut self) -> Option<&mut SimPlatform> {
        None
    }

    fn tick(&mut self) {
        self.look_after_keeper();
    }
}

impl Host for SimPlatform {
    fn run_fd(&self, run: RunId) -> Option<BorrowedFd<'_>> {
        Self::run_fd(self, run)
    }

    fn supplied_run(&mut self, sent: OwnedFd, bytes: u64) -> Result<RunId, Error> {
        let memory = SealedMemory::take(sent, bytes, Pages::Any)?;
        Ok(Self::supplied_run(self, SharedMemory::of_client(memory, bytes)))
    }

    fn simulator(&mut self) -> Option<&mut SimPlatform> {
        Some(self)
    }

    fn tick(&mut self) {
        Self::tick(self);
    }
}
