//! A platform under which the daemon dies at a chosen event: a store to a table or to the ledger, an access to a register or to
//! configuration space, or as memory is taken or given back. What it had done until then is done, and nothing else.

use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use dma_types::{PAGE_SIZE, PciAddress, PhysAddr};
use iommu_engine::delegate;
use iommu_engine::platform::{
    ConfigSpace, Instant, MsiMessage, NotInherited, Platform, PlatformError, RegisterWindow,
    Registers, RunId, RunPlace, Segment, TableFrame, TableFrames,
};
use iommud::platform::sim::SimPlatform;
use iommud::platform::sim::memory::{ARENA, ARENA_BYTES};

use crate::stores::Watch;

/// The daemon is dead.
struct Dead;

/// Who looks before each of the daemon's accesses.
type Look = Box<dyn Fn(&SimPlatform)>;

/// The simulated platform, and when the daemon dies on it.
pub(crate) struct Mortal {
    watch: Box<Watch>,
    pub(crate) sim: SimPlatform,
    pub(crate) look: Option<Look>,
    died_storing: Cell<bool>,
}

/// Lets a daemon that has the platform do something, and has it die at the event after so many others. `None` if it died.
pub(crate) fn live<T, R>(
    daemon: &mut T,
    platform: impl Fn(&T) -> &Mortal,
    events: u64,
    act: impl FnOnce(&mut T) -> R,
) -> Option<R> {
    let mortal = platform(daemon);
    if events < u64::MAX || mortal.look.is_some() {
        mortal.watch.arm(events);
    }
    mortal.watch.close();
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let done = act(daemon);
        platform(daemon).tells(|_| {});
        done
    }));
    let watch = &platform(daemon).watch;
    watch.open();
    watch.disarm();
    match lived {
        Ok(done) => Some(done),
        Err(why) if why.is::<Dead>() => None,
        Err(why) => resume_unwind(why),
    }
}

impl Mortal {
    pub(crate) fn new(sim: SimPlatform) -> Self {
        let arena = sim.table(PhysAddr::new(ARENA)).unwrap().as_ptr();
        // SAFETY: that is where the arena is, this many pages of it, which stay as long as the platform and are words that are
        // reached as atomics.
        let watch = unsafe { Watch::new(arena, (ARENA_BYTES / PAGE_SIZE) as usize) };
        Self { watch: Box::new(watch), sim, look: None, died_storing: Cell::new(false) }
    }

    /// Lets the daemon do something, and has it die at the event after so many others. `None` if it died.
    pub(crate) fn live<R>(&mut self, events: u64, act: impl FnOnce(&mut Self) -> R) -> Option<R> {
        live(self, |platform| platform, events, act)
    }

    /// Whether it has died at a store, and not at anything else.
    pub(crate) fn died_storing(&self) -> bool {
        self.died_storing.get()
    }

    /// Time passes while the daemon waits.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.before(false);
        self.sim.advance_time(by);
        self.watch.close();
    }

    /// The daemon does something that changes what others see: an event.
    fn works<R>(&mut self, act: impl FnOnce(&mut SimPlatform) -> R) -> R {
        self.before(true);
        let done = act(&mut self.sim);
        self.watch.close();
        done
    }

    /// The same of what does not change the platform itself.
    fn tells<R>(&self, act: impl FnOnce(&SimPlatform) -> R) -> R {
        self.before(true);
        let done = act(&self.sim);
        self.watch.close();
        done
    }

    /// The daemon only looks, which is no event. It may have died of a store.
    fn reads<'a, R>(&'a self, act: impl FnOnce(&'a SimPlatform) -> R) -> R {
        if self.watch.has_stored() {
            self.before(false);
            self.watch.close();
        }
        act(&self.sim)
    }

    fn before(&self, is_event: bool) {
        self.watch.open();
        let is_over = self.watch.is_over();
        if is_over || is_event && self.watch.count() {
            self.died_storing.set(is_over);
            self.watch.disarm();
            resume_unwind(Box::new(Dead));
        }
        if let Some(look) = &self.look {
            look(&self.sim);
        }
    }
}

impl TableFrames for Mortal {
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
        self.reads(|sim| sim.table(frame))
    }

    fn flush_entries(&self, frame: PhysAddr, entries: Range<usize>) {
        self.tells(|sim| sim.flush_entries(frame, entries));
    }
}

delegate!(Mortal, BufferRuns, sim);

impl Registers for Mortal {
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

impl ConfigSpace for Mortal {
    fn config_read(&mut self, function: PciAddress, offset: u16) -> u32 {
        self.sim.config_read(function, offset)
    }

    fn config_write(&mut self, function: PciAddress, offset: u16, value: u32) {
        self.works(|sim| sim.config_write(function, offset, value));
    }
}

impl Platform for Mortal {
    fn acpi_table(&mut self, signature: [u8; 4]) -> Result<Option<Vec<u8>>, PlatformError> {
        self.sim.acpi_table(signature)
    }

    fn now(&self) -> Instant {
        self.reads(|sim| sim.now())
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
