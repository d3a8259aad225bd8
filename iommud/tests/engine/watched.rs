//! A platform under which the daemon dies at a chosen event: a store to a table or to the ledger, an access to a register or to
//! configuration space, or as memory is taken or given back. What it had done until then is done, and nothing else.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::delegate;
use iommu_engine::platform::TableFrames;
use iommud::platform::sim::SimPlatform;
use iommud::platform::sim::memory::{ARENA, ARENA_BYTES};

use crate::mortal::{Access, Dead, Fate, Mortal};
use crate::stores::Watch;

/// Who looks before each of the daemon's accesses.
type Look = Box<dyn Fn(&SimPlatform)>;

/// The simulated platform, where the daemon dies at a store.
pub(crate) type Watched = Mortal<Watcher>;

/// When it dies.
pub(crate) struct Watcher {
    watch: Box<Watch>,
    pub(crate) look: Option<Look>,
    died_storing: Cell<bool>,
}

/// Lets a daemon that has the platform do something, and has it die at the event after so many others. `None` if it died.
pub(crate) fn live<T, R>(
    daemon: &mut T,
    platform: impl Fn(&T) -> &Watched,
    events: u64,
    act: impl FnOnce(&mut T) -> R,
) -> Option<R> {
    let watcher = &platform(daemon).fate;
    if events < u64::MAX || watcher.look.is_some() {
        watcher.watch.arm(events);
    }
    watcher.watch.close();
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let done = act(daemon);
        let Mortal { sim, fate } = platform(daemon);
        fate.before(sim, Access::Deed);
        done
    }));
    let watch = &platform(daemon).fate.watch;
    watch.open();
    watch.disarm();
    match lived {
        Ok(done) => Some(done),
        Err(why) if why.is::<Dead>() => None,
        Err(why) => resume_unwind(why),
    }
}

impl Watched {
    pub(crate) fn watched(sim: SimPlatform) -> Self {
        let arena = sim.table(PhysAddr::new(ARENA)).unwrap().as_ptr();
        // SAFETY: that is where the arena is, this many pages of it, which stay as long as the platform and are words that are
        // reached as atomics.
        let watch = unsafe { Watch::new(arena, (ARENA_BYTES / PAGE_SIZE) as usize) };
        let (watch, died_storing) = (Box::new(watch), Cell::new(false));
        Self { sim, fate: Watcher { watch, look: None, died_storing } }
    }

    /// Lets the daemon do something, and has it die at the event after so many others. `None` if it died.
    pub(crate) fn live<R>(&mut self, events: u64, act: impl FnOnce(&mut Self) -> R) -> Option<R> {
        live(self, |platform| platform, events, act)
    }

    /// Whether it has died at a store, and not at anything else.
    pub(crate) fn died_storing(&self) -> bool {
        self.fate.died_storing.get()
    }

    /// Time passes while the daemon waits.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.fate.interrupt(&self.sim, false);
        self.sim.advance_time(by);
        self.fate.after();
    }
}

delegate!(Watched, BufferRuns, sim);

impl Watcher {
    /// Opens the memory, and ends the daemon if it has died of a store, or is to die of this event.
    fn interrupt(&self, sim: &SimPlatform, is_event: bool) {
        self.watch.open();
        let is_over = self.watch.is_over();
        if is_over || is_event && self.watch.count() {
            self.died_storing.set(is_over);
            self.watch.disarm();
            resume_unwind(Box::new(Dead));
        }
        if let Some(look) = &self.look {
            look(sim);
        }
    }
}

impl Fate for Watcher {
    fn before(&self, sim: &SimPlatform, access: Access) {
        match access {
            Access::Deed => self.interrupt(sim, true),
            // That is no event. It may have died of a store.
            Access::Table | Access::Clock if self.watch.has_stored() => {
                self.interrupt(sim, false);
                self.watch.close();
            }
            Access::Table | Access::Clock => {}
        }
    }

    fn after(&self) {
        self.watch.close();
    }
}
