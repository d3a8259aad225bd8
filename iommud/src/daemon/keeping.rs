//! What the keeper holds, what it hands on, and when it starts the serving process again.
//!
//! Units walk tables, and devices reach buffers, in the memory of the process that serves, also when it has
//! died. The keeper has that memory, too, and hands it to the successor, which adopts what is in it: then devices go on
//! with what they reach. A successor that cannot do that says so and begins with memory of its own. What it was handed
//! is then held until the units translate by the new tables and have forgotten the old ones (rule R2), and handed to
//! nobody else. The keeper never ends by itself while it holds any.
//!
//! Whatever ends the process after it has touched a unit is answered with a new one: a machine whose IOMMU
//! nobody serves is of no use. The first comes at once. If it, too, dies before long, the next comes after
//! [`FIRST_PAUSE`], and each pause is twice the one before, up to [`LONGEST_PAUSE`]; so even what can
//! never work costs little time and, with what must be held each time, little memory. What has killed
//! [`MOST_HEIRS`] that were to adopt it is handed to no other.

use core::time::Duration;

/// The pause before the second of the processes that died soon.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// A process that has brought the units up and lived this long has not died soon. What it left is adopted, so that it costs
/// nothing to start the next one as often.
pub const STEADY: Duration = Duration::from_secs(1);

/// To how many processes, one after the other, the same memory is handed, if each dies before it has brought the units
/// up.
pub const MOST_HEIRS: u32 = 5;

/// What the keeper knows. `O` is the memory of one process; dropping it gives it back.
#[derive(Debug)]
pub struct Keeping<O> {
    /// That of processes which have ended, which a unit may still walk, and which nobody adopts.
    held: Vec<O>,
    /// That of the process which runs or, between two, of the last one: what the next is handed.
    current: Option<O>,
    /// Memory of its own for the process that runs, should it not adopt what it was handed.
    spare: Option<O>,
    /// Whether it has said that it brought units up.
    has_touched: bool,
    /// How many that were handed the same memory have ended before they said so.
    heirs: u32,
    /// How many have died soon, one after the other.
    short_lives: u32,
    /// How many have ended at all.
    deaths: u32,
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
        Self {
            held: Vec::new(),
            current: None,
            spare: None,
            has_touched: false,
            heirs: 0,
            short_lives: 0,
            deaths: 0,
        }
    }
}

impl<O> Keeping<O> {
    /// What a keeper knows that goes on after so many deaths, for one that is dead itself.
    pub fn after(deaths: u32) -> Self {
        Self { deaths, ..Self::default() }
    }

    /// A process has been started, with this memory of its own. It was handed what the one before has left, if that
    /// is in [`current`](Self::current) still, and needs its own only if it does not adopt that.
    pub fn started(&mut self, own: O) {
        self.has_touched = false;
        if self.current.is_none() {
            self.current = Some(own);
        } else {
            self.spare = Some(own);
        }
    }

    /// The memory that the process which runs has, or, between two, that the next is handed.
    pub fn current(&self) -> Option<&O> {
        self.current.as_ref()
    }

    /// The same, to put something in or take it out.
    pub fn current_mut(&mut self) -> Option<&mut O> {
        self.current.as_mut()
    }

    /// Memory of its own for the process that runs, if it was handed another's.
    pub fn spare(&self) -> Option<&O> {
        self.spare.as_ref()
    }

    /// The process does not adopt what it was handed: it has its own from now on.
    pub fn set_aside(&mut self) {
        if let Some(own) = self.spare.take() {
            self.held.extend(self.current.replace(own));
            self.heirs = 0;
        }
    }

    /// What the next was to be handed cannot be: it is held.
    pub fn hold(&mut self) {
        self.held.extend(self.current.take());
        self.heirs = 0;
    }

    /// The process says that it has brought the units up, and whether all of them translate by its tables. If so, nothing
    /// reaches the memory of its predecessors any more, but what it has adopted.
    pub fn touched(&mut self, all_translate: bool) {
        self.has_touched = true;
        self.spare = None;
        self.heirs = 0;
        if all_translate {
            self.held.clear();
        }
    }

    /// It has ended, having lived this long.
    pub fn ended(&mut self, how: End, lived: Duration) -> Next {
        self.deaths = self.deaths.saturating_add(1);
        let was_handed = self.spare.take().is_some();
        if was_handed {
            self.heirs += 1;
        }
        if self.heirs >= MOST_HEIRS {
            self.hold();
        } else if !was_handed && !self.has_touched && how != End::Crash {
            // Nothing has ever reached it.
            self.current = None;
        }
        match how {
            End::Code(code) if self.held.is_empty() && self.current.is_none() => Next::End(code),
            _ => Next::Again(self.pause(self.has_touched && lived >= STEADY)),
        }
    }

    /// Of how many ended processes it holds the memory that nobody adopts.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many have ended.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }

    /// What is said when a process has ended and the next is to come after a pause.
    pub fn told(&self, how: End, pause: Duration) -> String {
        let how = match how {
            End::Code(code) => format!("ended with exit code {code}"),
            End::Crash => "died".into(),
        };
        let when = if pause.is_zero() { String::new() } else { format!(" in {pause:?}") };
        let heir = if self.current.is_some() { ", with all that it has left" } else { "" };
        let held = match self.held.len() {
            0 => String::new(),
            1 => ". The memory of one is held until the units have forgotten it".into(),
            more => format!(". The memory of {more} is held until the units have forgotten it"),
        };
        format!("the process that served {how}; starting it again{when}{heir}{held}")
    }

    fn pause(&mut self, has_served: bool) -> Duration {
        if has_served {
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

    const SOON: Duration = Duration::from_millis(900);

    /// Starts a process: what is its own.
    fn started(keeping: &mut Keeping<Rc<()>>) -> Weak<()> {
        let memory = Rc::new(());
        let seen = Rc::downgrade(&memory);
        keeping.started(memory);
        seen
    }

    fn has(keeping: &Keeping<Rc<()>>, memory: &Weak<()>) -> bool {
        let upgraded = memory.upgrade();
        keeping.current().zip(upgraded).is_some_and(|(has, it)| Rc::ptr_eq(has, &it))
    }

    #[test]
    fn r2_what_the_dead_left_is_handed_on_and_stays_what_it_is() {
        let mut keeping = Keeping::default();
        let first = started(&mut keeping);
        assert!(has(&keeping, &first) && keeping.spare().is_none());
        keeping.touched(true);
        for death in 1..=20 {
            assert!(matches!(keeping.ended(End::Crash, SOON), Next::Again(_)));
            let own = started(&mut keeping);
            assert!(has(&keeping, &first) && keeping.spare().is_some());
            // It adopts: its own is not needed, and the old is not given back though all units translate.
            keeping.touched(true);
            assert!(has(&keeping, &first));
            assert_eq!((first.strong_count(), own.strong_count()), (1, 0));
            assert_eq!((keeping.deaths(), keeping.held()), (death, 0));
        }
    }

    #[test]
    fn r2_what_is_not_adopted_is_held_until_a_successor_translates() {
        let mut keeping = Keeping::default();
        let first = started(&mut keeping);
        keeping.touched(true);
        assert!(matches!(keeping.ended(End::Crash, SOON), Next::Again(_)));
        let second = started(&mut keeping);
        keeping.set_aside();
        assert!(has(&keeping, &second));
        assert_eq!((first.strong_count(), keeping.held()), (1, 1));
        // Killed on its way up: it may have given a unit its tables. The next may adopt those.
        assert!(matches!(keeping.ended(End::Crash, SOON), Next::Again(_)));
        let third = started(&mut keeping);
        assert!(has(&keeping, &second));
        assert_eq!((first.strong_count(), second.strong_count()), (1, 1));
        keeping.set_aside();
        keeping.set_aside();
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
        keeping.set_aside();
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
        // The next cannot adopt and ends before it touches anything: only its own goes.
        let third = started(&mut keeping);
        keeping.set_aside();
        assert!(matches!(keeping.ended(End::Code(1), SOON), Next::Again(_)));
        assert_eq!((first.strong_count(), third.strong_count(), keeping.held()), (1, 0, 1));
        assert!(keeping.current().is_none());
    }

    #[test]
    fn r2_what_kills_those_who_adopt_it_is_held_and_handed_to_no_other() {
        let mut keeping = Keeping::default();
        let first = started(&mut keeping);
        keeping.touched(true);
        keeping.ended(End::Crash, SOON);
        for heir in 1..=MOST_HEIRS {
            started(&mut keeping);
            assert!(has(&keeping, &first), "heir {heir}");
            keeping.ended(End::Crash, SOON);
        }
        assert_eq!((first.strong_count(), keeping.held()), (1, 1));
        let other = started(&mut keeping);
        assert!(has(&keeping, &other));
        keeping.touched(true);
        assert_eq!((first.strong_count(), keeping.held()), (0, 0));
    }

    #[test]
    fn one_that_brings_the_units_up_makes_good_for_those_that_died_before() {
        let mut keeping = Keeping::default();
        let first = started(&mut keeping);
        keeping.touched(true);
        for _ in 0..3 {
            for _ in 1..MOST_HEIRS {
                keeping.ended(End::Crash, SOON);
                started(&mut keeping);
            }
            keeping.touched(true);
        }
        keeping.ended(End::Crash, SOON);
        started(&mut keeping);
        assert!(has(&keeping, &first));
        assert_eq!(keeping.held(), 0);
    }

    #[test]
    fn what_is_said_tells_what_becomes_of_the_memory() {
        let mut keeping = Keeping::default();
        started(&mut keeping);
        keeping.touched(true);
        keeping.ended(End::Crash, SOON);
        assert_eq!(
            keeping.told(End::Crash, Duration::ZERO),
            "the process that served died; starting it again, with all that it has left"
        );
        started(&mut keeping);
        keeping.set_aside();
        keeping.ended(End::Code(1), SOON);
        assert_eq!(
            keeping.told(End::Code(1), FIRST_PAUSE),
            "the process that served ended with exit code 1; starting it again in 100ms. The memory of one is held until \
             the units have forgotten it"
        );
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
        // One that has lived well has its successor at once; not one that has brought nothing up.
        started(&mut keeping);
        assert_eq!(keeping.ended(End::Crash, STEADY), Next::Again(LONGEST_PAUSE));
        started(&mut keeping);
        keeping.touched(true);
        assert_eq!(keeping.ended(End::Crash, STEADY), Next::Again(Duration::ZERO));
        started(&mut keeping);
        assert_eq!(keeping.ended(End::Crash, SOON), Next::Again(FIRST_PAUSE));
    }
}
