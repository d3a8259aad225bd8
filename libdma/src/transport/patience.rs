//! How long a client waits for an iommud that was restarted, and how often it looks.

use core::time::Duration;
use std::thread;

use super::Look;

/// How often it is looked whether iommud was restarted. Sessions wait for ten times as long, unless the policy says otherwise.
const LOOK: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to reach it.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// For how long it is tried, all in all about.
const PATIENCE: Duration = Duration::from_secs(10);

/// As much stack as looking takes, and some.
const STACK: usize = 128 << 10;

/// Waits before the attempt after so many, if there is to be one.
pub(super) fn pause(tries: u32) -> bool {
    let pause = Duration::from_millis(1 << tries.min(7)).min(LONGEST_PAUSE);
    if pause.saturating_mul(tries) > PATIENCE {
        return false;
    }
    thread::sleep(pause);
    true
}

/// Calls it now and then, until it says that there is nothing more to look for.
pub(super) fn watch(mut look: Look) {
    let watch = move || {
        loop {
            thread::sleep(LOOK);
            if !look() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("libdma".into()).stack_size(STACK);
    // Where there can be no thread, a driver that makes requests goes on all the same.
    drop(thread.spawn(watch));
}
