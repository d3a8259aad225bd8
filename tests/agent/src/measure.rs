//! Counting what operations take, and telling it.
//!
//! Under QEMU's `-icount shift=0,sleep=off` the processor's counter counts instructions, of all processes and of the kernel.
//! What it counts while nobody runs is the time until the next event: a median is of rounds without such.

use core::arch::x86_64::_rdtsc;
use core::hint::black_box;
use core::sync::atomic::{Ordering, compiler_fence};

use crate::failure::{Failure, Outcome};

/// How often an operation is done.
const ROUNDS: usize = 1001;

/// How often it is done before, uncounted.
const WARM_UP: usize = 200;

/// The counter, between what comes before and what comes after.
#[inline]
#[expect(unsafe_code, reason = "the instruction has no safe name")]
fn counter() -> u64 {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: every x86-64 processor has this instruction, and it changes no memory.
    let count = unsafe { _rdtsc() };
    compiler_fence(Ordering::SeqCst);
    count
}

/// What operations of one kind took.
#[derive(Debug)]
struct Samples(Vec<u64>);

impl Samples {
    #[inline]
    fn take<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let start = counter();
        let done = black_box(act());
        let end = counter();
        self.0.push(end - start);
        done
    }

    /// The median, and the mean, rounded.
    fn summary(&mut self) -> (u64, u64) {
        self.0.sort_unstable();
        let median = self.0.get(self.0.len() / 2).copied().unwrap_or_default();
        let count = (self.0.len() as u64).max(1);
        (median, (self.0.iter().sum::<u64>() + count / 2) / count)
    }
}

/// Does something and what undoes it, some thousand times, and tells what each took in a line that the rig reads:
/// `bench NAME MEDIAN MEAN MEDIAN MEAN`.
///
/// # Errors
///
/// The first of either's.
pub fn pairs<T, E: Into<Failure>, F: Into<Failure>>(
    name: &str,
    mut make: impl FnMut() -> Result<T, E>,
    mut undo: impl FnMut(T) -> Result<(), F>,
) -> Outcome<String> {
    let all = || Samples(Vec::with_capacity(WARM_UP + ROUNDS));
    let (mut makes, mut undoes) = (all(), all());
    for round in 0..WARM_UP + ROUNDS {
        if round == WARM_UP {
            makes.0.clear();
            undoes.0.clear();
        }
        let made = makes.take(&mut make).map_err(Into::into)?;
        undoes.take(|| undo(made)).map_err(Into::into)?;
    }
    let ((make, make_mean), (undo, undo_mean)) = (makes.summary(), undoes.summary());
    Ok(format!("bench {name} {make} {make_mean} {undo} {undo_mean}"))
}

/// An amount and what it is held against, or zero, in a line of the same form.
pub fn amount(name: &str, amount: u64, of: u64) -> String {
    format!("bench {name} {amount} {amount} {of} {of}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_median_and_the_mean() {
        assert_eq!(Samples(vec![7, 1, 100, 2, 3]).summary(), (3, 23));
        assert_eq!(Samples(Vec::new()).summary(), (0, 0));
    }

    #[test]
    fn both_are_done_in_turn_and_the_first_failure_ends_it() {
        let (mut made, mut undone) = (0, 0);
        let count = |of: &mut usize| -> Outcome {
            *of += 1;
            Ok(())
        };
        let line = pairs("x", || count(&mut made), |()| count(&mut undone)).unwrap();
        assert!(line.starts_with("bench x "));
        assert_eq!((made, undone), (WARM_UP + ROUNDS, WARM_UP + ROUNDS));
        let refused = || Err::<(), _>(Failure("refused".into()));
        assert_eq!(pairs("x", refused, |()| Ok::<_, Failure>(())).unwrap_err().0, "refused");
    }
}
