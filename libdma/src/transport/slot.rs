//! A place where a thread leaves a value for another that waits for it.
//!
//! The standard library's channels look again and again, and yield in between, before they wait in earnest: on one processor who
//! is waited for needs it meanwhile. On Redox each of these is a look at all that can run.

use alloc::sync::Arc;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use spin::Mutex;

use super::futex;

struct Slot<T> {
    value: Mutex<Option<T>>,
    /// How many values have been left.
    given: AtomicU32,
}

/// Who leaves values, one after the other was taken.
pub(super) struct Giver<T>(Arc<Slot<T>>);

/// Who takes them: always the thread that made it.
pub(super) struct Taker<T> {
    slot: Arc<Slot<T>>,
    of_one_thread: PhantomData<*const ()>,
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    /// It has not come yet.
    Yet,
    /// Nobody is left who could give it.
    Ever,
}

/// A slot from which this thread takes.
pub(super) fn slot<T>() -> (Giver<T>, Taker<T>) {
    let slot = Arc::new(Slot { value: Mutex::new(None), given: AtomicU32::new(0) });
    (Giver(slot.clone()), Taker { slot, of_one_thread: PhantomData })
}

impl<T> Giver<T> {
    /// Leaves a value.
    pub(super) fn give(&self, value: T) {
        let Self(slot) = self;
        *slot.value.lock() = Some(value);
        slot.given.fetch_add(1, Ordering::Release);
        futex::wake(&slot.given);
    }
}

impl<T> Taker<T> {
    /// Another who gives.
    pub(super) fn giver(&self) -> Giver<T> {
        Giver(self.slot.clone())
    }

    /// Waits for a value so long, or half as long if the thread was woken for something of before.
    pub(super) fn take(&self, within: Duration) -> Result<T, Nothing> {
        let Slot { value, given } = &*self.slot;
        for _ in 0..2 {
            let before = given.load(Ordering::Acquire);
            let is_alone = Arc::strong_count(&self.slot) == 1;
            // Only now: the last who gave may have gone meanwhile.
            if let Some(value) = value.lock().take() {
                return Ok(value);
            }
            if is_alone {
                return Err(Nothing::Ever);
            }
            futex::wait(given, before, within / 2);
        }
        value.lock().take().ok_or(Nothing::Yet)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(2);

    #[test]
    fn what_is_left_is_taken_once_by_who_waits() {
        let (giver, taker) = slot();
        giver.give(1);
        assert_eq!((taker.take(LONG), taker.take(SHORT)), (Ok(1), Err(Nothing::Yet)));
        let other = thread::spawn(move || giver.give(2));
        assert_eq!(taker.take(LONG), Ok(2));
        other.join().unwrap();
        taker.giver().give(3);
        // It had come before nobody was left.
        assert_eq!((taker.take(LONG), taker.take(LONG)), (Ok(3), Err(Nothing::Ever)));
    }

    #[test]
    fn who_finds_nothing_waits_also_if_something_came_before() {
        let (giver, taker) = slot();
        giver.give(0);
        assert_eq!(taker.take(LONG), Ok(0));
        let other = thread::spawn(move || {
            thread::sleep(SHORT);
            giver.give(1);
        });
        assert_eq!(taker.take(LONG), Ok(1));
        other.join().unwrap();
    }
}
