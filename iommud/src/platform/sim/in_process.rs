//! Drivers in the same process as the simulator: tests.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use iommu_engine::platform::RunId;
use iommu_service::in_process::RunMemory;
use libdma::Error;

use super::SimPlatform;
use super::shared::SharedMemory;

// SAFETY: a run is a mapped memfd of its own, which stays until the run is freed. Its words are atomics that
// this process only ever reaches as such or, through here, as a driver reaches its buffer.
unsafe impl RunMemory for SimPlatform {
    fn run_memory(&self, run: RunId) -> Option<NonNull<u8>> {
        self.run_words(run).map(|words| NonNull::from(words).cast())
    }

    unsafe fn adopt(&mut self, memory: NonNull<u8>, bytes: u64) -> Result<RunId, Error> {
        let bytes = usize::try_from(bytes).map_err(|_| Error::TooLarge)?;
        // SAFETY: as the caller promises.
        Ok(self.supplied_run(unsafe { SharedMemory::of_driver(memory, bytes) }))
    }
}
