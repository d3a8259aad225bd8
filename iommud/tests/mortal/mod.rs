//! A platform under which the daemon dies at a chosen access: to a table, a register or configuration space, or as it
//! takes or gives back memory. What it had done until then is done. The engine's own tests have a finer one, by which it dies
//! at each store.

use std::cell::Cell;
use std::ops::Range;
use std::panic::resume_unwind;

use dma_types::{PciAddress, PhysAddr};
use iommu_engine::delegate;
use iommu_engine::platform::{
    ConfigSpace, Instant, MsiMessage, NotInherited, Platform, PlatformError, RegisterWindow,
    Registers, RunId, RunPlace, Segment, TableFrame, TableFrames,
};
use iommud::platform::sim::SimPlatform;

/// The daemon is dead.
pub(crate) struct Dead;

/// The simulated platform, and how many accesses the daemon has left, if that is limited.
pub(crate) struct Mortal {
    pub(crate) sim: SimPlatform,
    pub(crate) left: Cell<Option<u64>>,
}

impl Mortal {
    pub(crate) fn new(sim: SimPlatform) -> Self {
        Self { sim, left: Cell::new(None) }
    }

    fn access(&self) {
        match self.left.get() {
            None => {}
            Some(0) => {
                self.left.set(None);
                resume_unwind(Box::new(Dead));
            }
            Some(left) => self.left.set(Some(left - 1)),
        }
    }
}

impl TableFrames for Mortal {
    fn header_frame(&self) -> PhysAddr {
        self.sim.header_frame()
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        self.access();
        self.sim.alloc_frame()
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        self.access();
        self.sim.free_frame(frame);
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        self.access();
        self.sim.alloc_table(frames)
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.access();
        self.sim.table(frame)
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        self.access();
        self.sim.flush_entries(frame, entries);
    }
}

delegate!(Mortal, BufferRuns, sim);

impl Registers for Mortal {
    fn map_registers(
        &mut self,
        base: PhysAddr,
        bytes: usize,
    ) -> Result<RegisterWindow, PlatformError> {
        self.access();
        self.sim.map_registers(base, bytes)
    }

    fn read32(&mut self, window: RegisterWindow, offset: usize) -> u32 {
        self.access();
        self.sim.read32(window, offset)
    }

    fn write32(&mut self, window: RegisterWindow, offset: usize, value: u32) {
        self.access();
        self.sim.write32(window, offset, value);
    }

    fn read64(&mut self, window: RegisterWindow, offset: usize) -> u64 {
        self.access();
        self.sim.read64(window, offset)
    }

    fn write64(&mut self, window: RegisterWindow, offset: usize, value: u64) {
        self.access();
        self.sim.write64(window, offset, value);
    }
}

impl ConfigSpace for Mortal {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        self.sim.config_read(function, offset)
    }

    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        self.access();
        self.sim.config_write(function, offset, value);
    }
}

impl Platform for Mortal {
    fn acpi_table(&mut self, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        self.sim.acpi_table(signature)
    }

    fn now(&self) -> Instant {
        self.sim.now()
    }

    fn entropy(&mut self) -> [u8; 16] {
        self.sim.entropy()
    }

    fn fault_message(&mut self) -> Option<MsiMessage> {
        self.sim.fault_message()
    }

    fn memory(&mut self) -> Vec<Segment> {
        self.sim.memory()
    }

    fn bar(&mut self, function: PciAddress, number: u8) -> Option<Segment> {
        self.sim.bar(function, number)
    }

    fn arenas(&self) -> Vec<Segment> {
        self.sim.arenas()
    }

    fn arena_changes(&self) -> u64 {
        self.sim.arena_changes()
    }

    fn inherited(&self) -> bool {
        self.sim.inherited()
    }

    fn keep_frames(&mut self, start: PhysAddr, count: usize) -> Result<(), NotInherited> {
        self.access();
        self.sim.keep_frames(start, count)
    }

    fn place(&self, run: RunId) -> Option<RunPlace> {
        self.sim.place(run)
    }

    fn keep_run(&mut self, run: RunId, place: RunPlace) -> Result<(), NotInherited> {
        self.access();
        self.sim.keep_run(run, place)
    }

    fn settle_inherited(&mut self) {
        self.access();
        self.sim.settle_inherited();
    }

    fn set_aside_inherited(&mut self) {
        self.access();
        self.sim.set_aside_inherited();
    }
}
