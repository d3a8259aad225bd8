//! Giving up descriptors without waiting for it.
//!
//! To close the last descriptor of an address space is to give up all that is mapped in it, and where that is memory of
//! some scheme's, the kernel asks the scheme and waits: a client could have its own scheme never answer. So what may
//! have come from a client is closed in a thread of its own.

use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use libredox::Fd;

use crate::daemon::log;

/// How many threads may be closing at once. What comes when so many are stuck stays open.
const MOST_CLOSING: usize = 64;

static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// Closes them all, and does not wait for it.
pub fn close_apart(descriptors: Vec<Fd>) {
    // Without the thread they are not closed.
    let descriptors = ManuallyDrop::new(descriptors);
    if CLOSING.fetch_add(1, Ordering::Relaxed) < MOST_CLOSING {
        let close = move || {
            drop(ManuallyDrop::into_inner(descriptors));
            CLOSING.fetch_sub(1, Ordering::Relaxed);
        };
        if thread::Builder::new().spawn(close).is_ok() {
            return;
        }
    }
    CLOSING.fetch_sub(1, Ordering::Relaxed);
    log::line("what a client sent stays open: too much of what clients sent is being closed");
}
