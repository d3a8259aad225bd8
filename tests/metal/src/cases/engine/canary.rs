//! Memory that no device has any business with: where a device's transfer would go, or come from, that nothing
//! translates and nothing blocks.

use core::ptr::NonNull;

use dma_types::PAGE_SIZE;
use iommu_engine::platform::BufferRuns;

use super::blocking::MARK;
use super::rig::Rig;
use crate::harness::{Failure, Outcome};
use crate::require;

/// A page of memory that begins with a known mark. It is taken back at the end of its case.
pub struct Canary {
    address: u64,
    memory: NonNull<[u8; 16]>,
}

impl Canary {
    /// A page that the service knows nothing of.
    pub fn new(rig: &Rig) -> Outcome<Self> {
        let mut service = rig.service.lock();
        let platform = service.platform_mut();
        let run = platform.alloc_run(PAGE_SIZE).ok_or(Failure("no run".into()))?;
        let memory = platform.run_pointer(run).ok_or(Failure("no pointer".into()))?.cast();
        let address = platform.segments(run).first().map_or(0, |segment| segment.start.get());
        // SAFETY: the page is ours until all is taken back.
        unsafe { memory.write_volatile(MARK) };
        Ok(Self { address, memory })
    }

    /// Where it is in memory.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Whether it still begins with a known mark.
    pub fn check(&self) -> Outcome {
        // SAFETY: as above.
        let found = unsafe { self.memory.read_volatile() };
        require!(found == MARK, "memory that is for no device begins with {found:x?}");
        Ok(())
    }
}
