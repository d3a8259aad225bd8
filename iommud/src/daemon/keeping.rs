//! What the keeper holds, and when it starts the serving process again.
//!
//! Units walk tables, and devices reach buffers, in the memory of the process that serves, also when it has
//! died: until the units translate by the tables of its successor and have forgotten the old ones. So the
//! keeper holds the memory of the dead until then (rule R2), and never ends while it holds any.
//!
//! Whatever ends the process after it has touched a unit is answered with a new one: a machine whose IOMMU
//! nobody serves is of no use. The first comes at once. If it, too, dies before long, the next comes after
//! [`FIRST_PAUSE`], and each pause is twice the one before, up to [`LONGEST_PAUSE`]; so even what can
//! never work costs little time and, with what must be held each time, little memory.

use core::time::Duration;

/// The pause before the second of the processes that died soon.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A process that has lived this long has not died soon.
pub const STEADY: Duration = Duration::from_secs(60);

/// What the keeper knows. `O` is the memory of one process; dropping it gives it back.
#[derive(Debug)]
pub struct Keeping<O> {
    /// That of processes which have ended, and which a unit may still walk.
    held: Vec<O>,
    /// That of the process that runs.
    current: Option<O>,
    /// Whether it has said that it brought units up.
    has_touched: bool,
    /// How many have died soon, one after the other.
    short_lives: u32,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this exit code.
    Code(u8),
    /// By a signal, or the keeper could not start it at all.
    Crash,
}

/// What to do then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// End, with this exit code.
    End(u8),
    /// Start it again, after this pause.
    Again(Duration),
}

impl<O> Default for Keeping<O> {
    fn default() -> Self {
        Self { held: Vec::new(), current: None, has_touched: false, short_lives: 0 }
    }
}

impl<O> Keeping<O> {
    /// A process has been started, with this memory.
    pub fn started(&mut self, memory: O) {
        self.current = Some(memory);
        self.has_touched = false;
    }

    /// It says that it has brought the units up, and whether all of them translate by its tables. If so, nothing
    /// reaches the memory of its predecessors any more.
    pub fn touched(&mut self, all_translate: bool) {
        self.has_touched = true;
        if all_translate {
            self.held.clear();
        }
    }

    /// It has ended, having lived this long.
    pub fn ended(&mut self, how: End, lived: Duration) -> Next {
        let memory = self.current.take();
        if self.has_touched || how == End::Crash {
            self.held.extend(memory);
        }
        match how {
            End::Code(code) if self.held.is_empty() => Next::End(code),
            _ => Next::Again(self.pause(lived)),
        }
    }

    /// Of how many ended processes it holds the memory.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn pause(&mut self, lived: Duration) -> Duration {
        if lived >= STEADY {
            self.short_lives = 0;
        }
        let doubled = self.short_lives.checked_sub(1).map(|it| 1u32.checked_shl(it));
        self.short_lives = self.short_lives.saturating_add(1);
        let pause = doubled.map(|it| FIRST_PAUSE.saturating_mul(it.unwrap_or(u32::MAX)));
        pause.unwrap_or(Duration::ZERO).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::{Rc, Weak};

    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    fn started(keeping: &mut Keeping<Rc<()>>) -> Weak<()> {
        let memory = Rc::new(());
        let seen = Rc::downgrade(&memory);
        keeping.started(memory);
        seen
    }

    #[test]
    fn r2_the_memory_of_the_dead_is_held_until_a_successor_translates() {
        let mut keeping = Keeping::default();
        let first = started(&mut keeping);
        keeping.touched(true);
        assert!(matches!(keeping.ended(End::Crash, SOON), Next::Again(_)));
        let second = started(&mut keeping);
        assert_eq!((first.strong_count(), second.strong_count()), (1, 1));
        // Killed on its way up: it may have given a unit its tables.
        assert!(matches!(keeping.ended(End::Crash, SOON), Next::Again(_)));
        let third = started(&mut keeping);
        assert_eq!((first.strong_count(), second.strong_count()), (1, 1));
        keeping.touched(true);
        assert_eq!((first.strong_count(), second.strong_count()), (0, 0));
        assert_eq!((third.strong_count(), keeping.held()), (1, 0));
    }

    #[test]
    fn r2_a_unit_that_failed_may_walk_what_it_walked() {
        let mut keeping = Keeping::default();
        let first = started(&mut keeping);
        keeping.touched(true);
        keeping.ended(End::Crash, SOON);
        started(&mut keeping);
        keeping.touched(false);
        assert_eq!((first.strong_count(), keeping.held()), (1, 1));
    }

    #[test]
    fn a_process_that_ends_before_it_touched_anything_ends_the_keeper() {
        for code in [0, 1, 2] {
            let mut keeping = Keeping::default();
            let memory = started(&mut keeping);
            assert_eq!(keeping.ended(End::Code(code), SOON), Next::End(code));
            assert_eq!(memory.strong_count(), 0);
        }
    }

    #[test]
    fn r2_the_keeper_does_not_end_while_a_unit_may_walk_what_it_holds() {
        // Ended by itself, but under way.
        let mut keeping = Keeping::default();
        let first = started(&mut keeping);
        keeping.touched(true);
        assert!(matches!(keeping.ended(End::Code(1), SOON), Next::Again(_)));
        // Its successor is refused before it touches anything: a policy that has become wrong.
        let second = started(&mut keeping);
        assert!(matches!(keeping.ended(End::Code(1), SOON), Next::Again(_)));
        assert_eq!((first.strong_count(), second.strong_count()), (1, 0));
    }

    #[test]
    fn a_process_that_keeps_dying_is_started_ever_more_seldom() {
        let mut keeping = Keeping::default();
        let mut pauses = Vec::new();
        for _ in 0..60 {
            started(&mut keeping);
            match keeping.ended(End::Crash, SOON) {
                Next::Again(pause) => pauses.push(pause),
                Next::End(code) => panic!("ended with {code}"),
            }
        }
        assert_eq!(pauses[0], Duration::ZERO);
        assert_eq!(pauses[1..4], [100, 200, 400].map(Duration::from_millis));
        assert!(pauses.is_sorted());
        assert_eq!(pauses[59], LONGEST_PAUSE);
        // One that has lived well has its successor at once.
        started(&mut keeping);
        assert_eq!(keeping.ended(End::Crash, STEADY), Next::Again(Duration::ZERO));
        started(&mut keeping);
        assert_eq!(keeping.ended(End::Crash, SOON), Next::Again(FIRST_PAUSE));
    }
}
