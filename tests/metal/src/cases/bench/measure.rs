//! Counting what operations take.
//!
//! Under QEMU's `-icount shift=0` the processor's counter counts instructions, so that a median repeats to the digit. The
//! cost of reading the counter is in every figure, as it is in those of the Linux module beside; the row `nothing` tells it.

use alloc::vec::Vec;
use core::arch::x86_64::_rdtsc;
use core::hint::black_box;
use core::sync::atomic::{Ordering, compiler_fence};

use crate::cpu::console::print_line;
use crate::harness::{Failure, Outcome};

/// How often an operation is done, when its case does not say otherwise.
pub(super) const ROUNDS: usize = 1001;

/// How often it is done before, uncounted: what it takes for the first time is on the way by then.
pub(super) const WARM_UP: usize = 200;

/// The counter, between what comes before and what comes after.
#[inline(always)]
pub(super) fn counter() -> u64 {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: every x86-64 processor has this instruction, and it changes no memory.
    let count = unsafe { _rdtsc() };
    compiler_fence(Ordering::SeqCst);
    count
}

/// What operations of one kind took.
#[derive(Debug)]
pub(super) struct Samples(Vec<u64>);

impl Samples {
    /// None, with room for so many.
    pub(super) fn new(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    /// Does something, and counts what it took.
    #[inline(always)]
    pub(super) fn take<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let start = counter();
        let done = black_box(act());
        let end = counter();
        self.0.push(end - start);
        done
    }

    /// Forgets all of them.
    fn clear(&mut self) {
        self.0.clear();
    }

    /// The median, and the mean, rounded.
    fn summary(&mut self) -> (u64, u64) {
        self.0.sort_unstable();
        let median = self.0.get(self.0.len() / 2).copied().unwrap_or_default();
        let count = (self.0.len() as u64).max(1);
        (median, (self.0.iter().sum::<u64>() + count / 2) / count)
    }
}

/// What an operation and the one that undoes it took.
#[derive(Debug)]
pub(super) struct Pairs {
    /// The operation.
    pub(super) make: Samples,
    /// What undoes it.
    pub(super) undo: Samples,
}

impl Pairs {
    /// None, with room for so many.
    pub(super) fn new(count: usize) -> Self {
        Self { make: Samples::new(count), undo: Samples::new(count) }
    }

    /// Does both [`ROUNDS`] times after a [warm-up](WARM_UP), with what goes from one to the other and back. What may go wrong
    /// is looked at when it has been counted.
    #[inline(always)]
    pub(super) fn of<A, B, E: Into<Failure>, F: Into<Failure>>(
        mut idle: A,
        mut make: impl FnMut(A) -> Result<B, E>,
        mut undo: impl FnMut(B) -> Result<A, F>,
    ) -> Outcome<Self> {
        let mut pairs = Self::new(WARM_UP + ROUNDS);
        for round in 0..WARM_UP + ROUNDS {
            if round == WARM_UP {
                pairs.forget();
            }
            let made = pairs.make.take(|| make(idle)).map_err(Into::into)?;
            idle = pairs.undo.take(|| undo(made)).map_err(Into::into)?;
        }
        Ok(pairs)
    }

    /// Forgets what was counted.
    pub(super) fn forget(&mut self) {
        self.make.clear();
        self.undo.clear();
    }

    /// Tells what it took, in a line that the rig reads: `bench NAME MEDIAN MEAN MEDIAN MEAN`, of both.
    pub(super) fn tell(mut self, name: &str) {
        let ((make, make_mean), (undo, undo_mean)) = (self.make.summary(), self.undo.summary());
        print_line(format_args!("bench {name} {make} {make_mean} {undo} {undo_mean}"));
    }
}

/// What undoes nothing.
#[inline(always)]
pub(super) fn unchanged<T>(it: T) -> Outcome<T> {
    Ok(it)
}

/// What undoes that something was given.
#[inline(always)]
pub(super) fn given_back<T>(it: T) -> Outcome {
    drop(it);
    Ok(())
}

/// Numbers in the same order every time, and on Linux's side: Marsaglia's xorshift64.
#[derive(Debug)]
pub(super) struct Order(u64);

impl Order {
    /// From the start.
    pub(super) const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// The next, below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_median_and_the_mean() {
        let mut samples = Samples(Vec::from([7, 1, 100, 2, 3]));
        assert_eq!(samples.summary(), (3, 23));
        assert_eq!(Samples::new(0).summary(), (0, 0));
    }

    #[test]
    fn the_order_is_the_same_every_time_and_visits_all() {
        let numbers = |_| {
            let mut order = Order::new();
            (0..1000).map(|_| order.below(32)).collect::<Vec<_>>()
        };
        let (first, second) = (numbers(0), numbers(1));
        assert_eq!(first, second);
        assert!((0..32).all(|number| first.contains(&number)));
    }
}
