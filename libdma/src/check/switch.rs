//! Whether the checker is on.

use core::sync::atomic::{AtomicU8, Ordering};

/// Nobody has asked yet.
const UNDECIDED: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNDECIDED);

/// Whether the checker is on: in debug builds, and where the environment variable `LIBDMA_CHECK` is `1`. With `0` it is
/// off in debug builds too. The variable is read once, when the checker is first asked; where there is no environment
/// the build alone decides.
#[inline]
pub fn is_on() -> bool {
    match STATE.load(Ordering::Relaxed) {
        UNDECIDED => decide(),
        state => state == ON,
    }
}

/// Turns the checker on. What was made before it does not know of.
pub fn turn_on() {
    STATE.store(ON, Ordering::Relaxed);
}

/// Turns the checker off. It forgets nothing: what it knew of, it goes on to know when it is turned on again, though it
/// may be gone by then.
pub fn turn_off() {
    STATE.store(OFF, Ordering::Relaxed);
}

#[cold]
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
