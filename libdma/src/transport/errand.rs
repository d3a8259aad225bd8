//! Requests that may take long or that others wait for, each made by a thread that can be given up.
//!
//! On Redox a thread that waits for the answer of a scheme's daemon when that dies waits for good: the kernel forgets whom it
//! has to tell (663e6641, `scheme/user.rs` and `scheme/mod.rs`). So a driver does not wait itself where iommud may take its
//! time for hardware. It sends somebody, looks now and then whether iommud is there still, and goes on without who does not
//! come back. Nor does it where other threads wait for who asks, who resumes a session or looks whether that has to be; nor where
//! memory is mapped and unmapped. All other requests are answered at once; who asks for one in just the moment in which iommud dies is not helped by this, and
//! delays nobody else for long ([`Link`](crate::resume::Link) waits for those that are under way, and not for good).
//!
//! A thread that was given up stays until the process ends, and with it what the kernel keeps of the daemon that is gone. For
//! this to be needless the kernel would have to answer, with ENODEV, all requests that are in a scheme's hands when the last
//! context that serves it ends.
//!
//! Who waits for an answer looks for it every [`LOOK`]: [`crew`] says why.

use alloc::boxed::Box;
use core::time::Duration;

use super::crew::{self, Errand};
use super::slot::{Nothing, Taker, slot};

/// How long somebody is waited for before it is looked whether iommud is there still.
const LOOK: Duration = Duration::from_millis(200);

/// Has somebody make a request. `None` if iommud was gone, as `is_there` says, before there was an answer.
pub(super) fn run<R: Send + 'static>(
    request: impl FnOnce() -> R + Send + 'static,
    is_there: impl Fn() -> bool + Clone + Send + 'static,
) -> Option<R> {
    let answer = send(request);
    loop {
        match answer.take(LOOK) {
            Ok(answered) => return Some(answered),
            // Who looks may have to wait as well.
            Err(Nothing::Yet) => {
                if send(is_there.clone()).take(LOOK) == Ok(false) {
                    return None;
                }
            }
            Err(Nothing::Ever) => return None,
        }
    }
}

/// Sends somebody, who may not come back.
fn send<R: Send + 'static>(request: impl FnOnce() -> R + Send + 'static) -> Taker<R> {
    let (tell, answer) = slot();
    let errand: Errand = Box::new(move |done| {
        let answered = request();
        done();
        tell.give(answered);
    });
    if let Err(errand) = crew::send(errand) {
        // Where there can be no thread, it is waited for as it is.
        errand(&mut || ());
    }
    answer
}

// Miri takes it for a mistake that threads are left behind, which is what this is for.
#[cfg(all(test, not(miri)))]
mod tests {
    use core::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    #[test]
    fn who_comes_back_brings_the_answer() {
        for number in 0..100 {
            assert_eq!(run(move || number + 1, || panic!("nobody has to look")), Some(number + 1));
        }
        let slow = || thread::sleep(LOOK + LOOK / 2);
        assert_eq!(run(slow, || true), Some(()));
    }

    #[test]
    fn who_does_not_come_back_is_given_up_when_nobody_is_there() {
        let is_there = Arc::new(AtomicBool::new(true));
        let (never, blocked) = mpsc::channel::<()>();
        let seen = is_there.clone();
        let dies = thread::spawn({
            let is_there = is_there.clone();
            move || {
                thread::sleep(LOOK * 2);
                is_there.store(false, Ordering::Relaxed);
            }
        });
        let waits = move || blocked.recv().is_ok();
        assert_eq!(run(waits, move || seen.load(Ordering::Relaxed)), None);
        dies.join().unwrap();
        drop(never);
    }

    #[test]
    fn who_looks_and_does_not_come_back_is_replaced() {
        let looks = Arc::new(AtomicBool::new(false));
        let look = move || {
            // The first waits for good, as one who asks in the moment in which iommud dies.
            if !looks.swap(true, Ordering::Relaxed) {
                thread::sleep(Duration::from_secs(3600));
            }
            false
        };
        assert_eq!(run(|| thread::sleep(Duration::from_secs(3600)), look), None);
    }
}
