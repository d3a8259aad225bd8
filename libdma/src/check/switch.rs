//! Whether the checker is on.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::note;

/// Nobody has asked yet.
const UNDECIDED: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNDECIDED);
static RUN: AtomicU64 = AtomicU64::new(0);

/// Whether the checker is on: in debug builds, and where the environment variable `LIBDMA_CHECK` is `1`. With `0` it is
/// off in debug builds too. The variable is read once, when the checker is first asked; where there is no environment
/// the build alone decides.
#[inline]
pub fn is_on() -> bool {
    // One comparison where it is off.
    STATE.load(Ordering::Relaxed) != OFF && is_not_off()
}

/// Whether the checker was asked for before and is off, in one comparison and without a call: if not, what it would be told
/// is on a path of its own.
#[inline]
pub(crate) fn is_known_off() -> bool {
    STATE.load(Ordering::Relaxed) == OFF
}

/// Turns the checker on. What was made before it does not know of.
pub fn turn_on() {
    STATE.store(ON, Ordering::Relaxed);
}

/// Turns the checker off. It forgets everything that it knew of.
pub fn turn_off() {
    STATE.store(OFF, Ordering::Relaxed);
    RUN.fetch_add(1, Ordering::Relaxed);
    note::forget();
}

/// A number for the time since the checker was last turned off: what it noted before holds no more.
pub(crate) fn run() -> u64 {
    RUN.load(Ordering::Relaxed)
}

#[cold]
fn is_not_off() -> bool {
    STATE.load(Ordering::Relaxed) == ON || decide()
}

fn decide() -> bool {
    let on = asked_for().unwrap_or(cfg!(debug_assertions));
    let state = if on { ON } else { OFF };
    // Somebody may have turned it on or off meanwhile.
    match STATE.compare_exchange(UNDECIDED, state, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => on,
        Err(state) => state == ON,
    }
}

#[cfg(any(
    all(target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
))]
fn asked_for() -> Option<bool> {
    match std::env::var("LIBDMA_CHECK").ok()?.as_str() {
        "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

#[cfg(not(any(
    all(target_os = "linux", feature = "socket"),
    all(target_os = "redox", feature = "scheme")
)))]
fn asked_for() -> Option<bool> {
    None
}
