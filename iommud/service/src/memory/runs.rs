//! Memory that several buffers may be of.
//!
//! The buffers of a run come and go with their sessions and handles, each unmapped by the units of its own domain.
//! The run is free when the last of them has gone and all of those units have confirmed it (rule R2).

use iommu_engine::completion::Completion;
use iommu_engine::engine::Engine;
use iommu_engine::platform::{Platform, RunId};
use iommu_engine::retired::RetiredRun;

use crate::numbered::Numbered;

/// The runs that buffers are of.
#[derive(Debug, Default)]
pub struct Runs {
    held: Numbered<RunId, Held>,
    /// How many of them several buffers are of, or were.
    shared: usize,
}

#[derive(Debug, Default)]
struct Held {
    buffers: usize,
    /// What units have yet to confirm of the buffers that have gone.
    gone: Completion,
    /// Whether several buffers are of it, or were.
    is_shared: bool,
}

impl Runs {
    /// Counts a buffer of a run.
    pub fn enter(&mut self, run: RunId) {
        let held = self.held.get_or_insert_default(run);
        held.buffers += 1;
        if held.buffers > 1 && !held.is_shared {
            held.is_shared = true;
            self.shared += 1;
        }
    }

    /// Counts a buffer no more, which nothing reaches by when `unmapped` is confirmed. If it was the last of its
    /// run, what is to be confirmed before that is free.
    pub fn leave(&mut self, run: RunId, unmapped: &Completion) -> Option<Completion> {
        let held = self.held.get_mut(&run)?;
        held.gone.join(unmapped);
        held.buffers -= 1;
        if held.buffers > 0 {
            return None;
        }
        let held = self.held.remove(&run)?;
        self.shared -= usize::from(held.is_shared);
        Some(held.gone)
    }

    /// Frees a run of which a buffer has gone, when the last has and all is confirmed; whether it was the last. As long as
    /// it is not free, there is a record of it in the ledger: this buffer's, or one of those that are left.
    pub fn retire<P: Platform>(
        &mut self,
        engine: &mut Engine,
        platform: &mut P,
        run: RetiredRun,
        unmapped: &Completion,
    ) -> bool {
        let last = self.leave(run.run, unmapped);
        if let Some(held) = self.held.get_mut(&run.run) {
            // It may be held for long, while many come and go.
            engine.forget_confirmed(&mut held.gone);
        }
        let is_last = last.is_some();
        match last {
            Some(unmapped) => engine.free_run_after(platform, unmapped, run),
            None => run.record.into_iter().for_each(|slot| engine.strike_record(platform, slot)),
        }
        is_last
    }

    /// What units have yet to confirm of the buffers of a run that have gone.
    pub fn gone(&self, run: RunId) -> Completion {
        self.held.get(&run).map_or_else(Completion::none, |held| held.gone.clone())
    }

    /// Whether one buffer is of a run; and whether units have to confirm nothing of others that have gone.
    #[inline]
    pub fn standing(&self, run: RunId) -> (bool, bool) {
        // Most machines have no memory that is shared.
        if self.shared == 0 { (true, true) } else { self.standing_of(run) }
    }

    #[inline(never)]
    fn standing_of(&self, run: RunId) -> (bool, bool) {
        self.held.get(&run).map_or((false, true), |it| (it.buffers == 1, it.gone.is_none()))
    }

    /// How many buffers of a run there are.
    pub fn buffers(&self, run: RunId) -> usize {
        self.held.get(&run).map_or(0, |held| held.buffers)
    }
}

#[cfg(test)]
mod tests {
    use iommu_engine::completion::{Ticket, UnitId};

    use super::*;

    #[test]
    fn r2_the_last_of_a_run_waits_for_what_the_others_were_unmapped_by() {
        let mut runs = Runs::default();
        let (run, other) = (RunId(3), RunId(4));
        for run in [run, run, other] {
            runs.enter(run);
        }
        assert_eq!((runs.buffers(run), runs.buffers(other)), (2, 1));
        assert_eq!((runs.standing(run), runs.standing(other)), ((false, true), (true, true)));
        let first = Completion::one(UnitId(0), Ticket(5));
        assert_eq!(runs.leave(run, &first), None);
        assert_eq!(runs.standing(run), (true, false));
        assert_eq!(runs.leave(other, &Completion::none()), Some(Completion::none()));
        let all = runs.leave(run, &Completion::one(UnitId(1), Ticket(2))).unwrap();
        assert_eq!(
            all.tickets().collect::<alloc::vec::Vec<_>>(),
            [(UnitId(0), Ticket(5)), (UnitId(1), Ticket(2))]
        );
        assert_eq!(runs.buffers(run), 0);
    }
}
