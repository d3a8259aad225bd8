//! Tries one input after the other, and makes one that fails short.

use std::cell::Cell;
use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use crate::Chance;

/// For how long a failure is made shorter.
const PATIENCE: Duration = Duration::from_secs(30);

/// The steps of one input, to be taken one after the other.
#[derive(Debug)]
pub struct Steps<'a> {
    numbers: std::slice::Iter<'a, u64>,
    taken: &'a Cell<usize>,
}

impl Iterator for Steps<'_> {
    type Item = Chance;

    fn next(&mut self) -> Option<Chance> {
        let number = self.numbers.next()?;
        self.taken.set(self.taken.get() + 1);
        Some(Chance::of(*number))
    }
}

/// What is tried, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// The test's name, for whoever reads how it went.
    pub name: &'static str,
    /// How many steps are taken when nobody says.
    pub steps: u64,
    /// How many steps an input has.
    pub each: u64,
}

impl Trial {
    /// Tries as many inputs as there are to be steps. `attempt` takes those of one, and panics if something is wrong; it
    /// says whether the input was any good, for a generator of which nothing is ever any good tests little.
    ///
    /// # Panics
    ///
    /// As `attempt` does, after the steps that it takes to see that have been printed.
    pub fn run(&self, attempt: impl Fn(Steps<'_>) -> bool) {
        if let Ok(text) = env::var("FUZZ_REPLAY") {
            let numbers = text.split(',').map(|it| u64::from_str_radix(it.trim(), 16));
            let numbers: Vec<u64> = numbers.map(|it| it.expect("steps of an input")).collect();
            try_once(&numbers, &Cell::new(0), &attempt);
            return;
        }
        let (first, steps) = (setting("FUZZ_SEED", 0), setting("FUZZ_STEPS", self.steps));
        let (start, mut good) = (Instant::now(), 0);
        let inputs = steps.div_ceil(self.each);
        let mut numbers = Vec::new();
        for input in first..first + inputs {
            numbers.clear();
            // An input of one step is that step.
            match self.each {
                1 => numbers.push(input),
                each => {
                    let mut chance = Chance::of(input);
                    numbers.extend((0..each).map(|_| chance.next()));
                }
            }
            let taken = Cell::new(0);
            let tried =
                panic::catch_unwind(AssertUnwindSafe(|| try_once(&numbers, &taken, &attempt)));
            match tried {
                Ok(is_good) => good += u64::from(is_good),
                Err(why) => {
                    numbers.truncate(taken.get());
                    self.tell(input, &numbers, &attempt);
                    panic::resume_unwind(why);
                }
            }
        }
        let (taken, time) = (inputs * self.each, start.elapsed().as_secs_f64());
        println!(
            "{}: {taken} steps, {inputs} inputs, {good} of them good, in {time:.1} s: {:.0} a second",
            self.name,
            taken as f64 / time.max(1e-9)
        );
        assert!(good > 0 || inputs < 1000, "{}: no input is any good", self.name);
    }

    /// Tells how a failure is had again.
    fn tell(&self, input: u64, failing: &[u64], attempt: &impl Fn(Steps<'_>) -> bool) {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let short = shortest(failing, |numbers| {
            panic::catch_unwind(AssertUnwindSafe(|| try_once(numbers, &Cell::new(0), attempt)))
                .is_err()
        });
        panic::set_hook(loud);
        let words: Vec<_> = short.iter().map(|number| format!("{number:x}")).collect();
        println!(
            "{}: input {input} fails at step {}; {} of its steps are enough:\nFUZZ_REPLAY={}",
            self.name,
            failing.len(),
            short.len(),
            words.join(",")
        );
    }
}

fn try_once(numbers: &[u64], taken: &Cell<usize>, attempt: &impl Fn(Steps<'_>) -> bool) -> bool {
    attempt(Steps { numbers: numbers.iter(), taken })
}

/// As few of these steps as still fail: without more and more of them, as long as there is patience.
fn shortest(failing: &[u64], fails: impl Fn(&[u64]) -> bool) -> Vec<u64> {
    let start = Instant::now();
    let mut short = failing.to_vec();
    let mut piece = short.len().div_ceil(2);
    while piece > 0 && short.len() > 1 {
        let mut at = 0;
        while at < short.len() && start.elapsed() < PATIENCE {
            let mut without = short.clone();
            without.drain(at..(at + piece).min(short.len()));
            if fails(&without) {
                short = without;
            } else {
                at += piece;
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    short
}

fn setting(name: &str, default: u64) -> u64 {
    let text = env::var(name).ok();
    text.map_or(default, |text| text.replace('_', "").parse().expect("a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_does_not_need_is_left_out() {
        let failing: Vec<u64> = (0..500).collect();
        let short = shortest(&failing, |steps| steps.contains(&17) && steps.contains(&401));
        assert_eq!(short, [17, 401]);
    }

    #[test]
    fn steps_count_how_many_were_taken() {
        let taken = Cell::new(0);
        let is_good = try_once(&[1, 2, 3], &taken, &|mut steps: Steps<'_>| {
            steps.next().is_some() && steps.next().is_some()
        });
        assert!(is_good);
        assert_eq!(taken.get(), 2);
    }
}
