//! A platform under which the daemon dies at a chosen access: to a table, a register or configuration space, or as it
//! takes or gives back memory. What it had done until then is done. The engine's own tests have it die at each store, too.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::cell::Cell;
use std::ops::Range;
use std::panic::resume_unwind;

use dma_types::{PciAddress, PhysAddr};
use iommu_engine::delegate;
use iommu_engine::platform::{
    BufferRuns, ConfigSpace, Instant, MsiMessage, NotInherited, Platform, PlatformError,
    RegisterWindow, Registers, RunId, RunPlace, Segment, TableFrame, TableFrames,
};
use iommud::platform::sim::SimPlatform;

/// The daemon is dead.
pub(crate) struct Dead;

/// What the daemon is about to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// To look at a table, which changes nothing.
    Table,
    /// To look at the clock.
    Clock,
    /// Something that others see, or may.
    Deed,
}

/// When the daemon dies.
pub(crate) trait Fate {
    /// Is asked before each of its accesses; if it is to die, this unwinds with [`Dead`].
    fn before(&self, sim: &SimPlatform, access: Access);

    /// Is told when something is done.
    fn after(&self) {}
}

/// After how many accesses it dies, if it does.
#[derive(Default)]
pub(crate) struct Countdown(Cell<Option<u64>>);

impl Countdown {
    /// Has it die after so many accesses from now on, or not at all.
    pub(crate) fn set(&self, left: Option<u64>) {
        self.0.set(left);
    }
}

impl Fate for Countdown {
    fn before(&self, _: &SimPlatform, access: Access) {
        match self.0.get() {
            Some(_) if access == Access::Clock => {}
            None => {}
            Some(0) => {
                self.set(None);
                resume_unwind(Box::new(Dead));
            }
            Some(left) => self.set(Some(left - 1)),
        }
    }
}

/// The simulated platform, and when the daemon dies on it.
pub(crate) struct Mortal<F = Countdown> {
    pub(crate) sim: SimPlatform,
    pub(crate) fate: F,
}

impl Mortal {
    pub(crate) fn new(sim: SimPlatform) -> Self {
        Self { sim, fate: Countdown::default() }
    }
}

impl<F: Fate> Mortal<F> {
    /// The daemon does something that changes the platform.
    fn works<R>(&mut self, act: impl FnOnce(&mut SimPlatform) -> R) -> R {
        self.fate.before(&self.sim, Access::Deed);
        let done = act(&mut self.sim);
        self.fate.after();
        done
    }
}

impl<F: Fate> TableFrames for Mortal<F> {
    fn header_frame(&self) -> PhysAddr {
        self.sim.header_frame()
    }

    fn alloc_frame(&mut self) -> Option<PhysAddr> {
        self.works(|sim| sim.alloc_frame())
    }

    fn free_frame(&mut self, frame: PhysAddr) {
        self.works(|sim| sim.free_frame(frame));
    }

    fn alloc_table(&mut self, frames: usize) -> Option<PhysAddr> {
        self.works(|sim| sim.alloc_table(frames))
    }

    fn table(&self, frame: PhysAddr) -> Option<&TableFrame> {
        self.fate.before(&self.sim, Access::Table);
        self.sim.table(frame)
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        self.fate.before(&self.sim, Access::Deed);
        self.sim.flush_entries(frame, entries);
        self.fate.after();
    }
}

delegate!(Mortal, BufferRuns, sim);

impl<F: Fate> Registers for Mortal<F> {
    fn map_registers(
        &mut self,
        base: PhysAddr,
        bytes: usize,
    ) -> Result<RegisterWindow, PlatformError> {
        self.works(|sim| sim.map_registers(base, bytes))
    }

    fn read32(&mut self, window: RegisterWindow, offset: usize) -> u32 {
        self.works(|sim| sim.read32(window, offset))
    }

    fn write32(&mut self, window: RegisterWindow, offset: usize, value: u32) {
        self.works(|sim| sim.write32(window, offset, value));
    }

    fn read64(&mut self, window: RegisterWindow, offset: usize) -> u64 {
        self.works(|sim| sim.read64(window, offset))
    }

    fn write64(&mut self, window: RegisterWindow, offset: usize, value: u64) {
        self.works(|sim| sim.write64(window, offset, value));
    }
}

impl<F: Fate> ConfigSpace for Mortal<F> {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        self.sim.config_read(function, offset)
    }

    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        self.works(|sim| sim.config_write(function, offset, value));
    }
}

impl<F: Fate> Platform for Mortal<F>
where
    Self: BufferRuns,
{
    fn acpi_table(&mut self, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        self.sim.acpi_table(signature)
    }

    fn now(&self) -> Instant {
        self.fate.before(&self.sim, Access::Clock);
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
        self.works(|sim| sim.keep_frames(start, count))
    }

    fn place(&self, run: RunId) -> Option<RunPlace> {
        self.sim.place(run)
    }

    fn keep_run(&mut self, run: RunId, place: RunPlace) -> Result<(), NotInherited> {
        self.works(|sim| sim.keep_run(run, place))
    }

    fn settle_inherited(&mut self) {
        self.works(|sim| sim.settle_inherited());
    }

    fn set_aside_inherited(&mut self) {
        self.works(|sim| sim.set_aside_inherited());
    }
}
