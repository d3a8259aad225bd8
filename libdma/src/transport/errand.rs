//! Requests that may take long, each made by a thread that can be given up.
//!
//! On Redox a thread that waits for the answer of a scheme's daemon when that dies waits for good: the kernel forgets whom it
//! has to tell (663e6641, `scheme/user.rs` and `scheme/mod.rs`). So a driver does not wait itself where iommud may take its
//! time for hardware. It sends somebody, looks now and then whether iommud is there still, and goes on without who does not
//! come back. All other requests are answered at once; who asks for one in just the moment in which iommud dies is not
//! helped by this.
//!
//! A thread that was given up stays until the process ends, and with it what the kernel keeps of the daemon that is gone. For
//! this to be needless the kernel would have to answer, with ENODEV, all requests that are in a scheme's hands when the last
//! context that serves it ends.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How long somebody is waited for before it is looked whether iommud is there still.
const LOOK: Duration = Duration::from_millis(200);

/// As much stack as a request takes, and some.
const STACK: usize = 128 << 10;

type Errand = Box<dyn FnOnce() + Send>;

/// Those who wait to be sent.
static IDLE: Mutex<Vec<Sender<Errand>>> = Mutex::new(Vec::new());

/// Has somebody make a request. `None` if iommud was gone, as `is_there` says, before there was an answer.
pub(super) fn run<R: Send + 'static>(
    request: impl FnOnce() -> R + Send + 'static,
    is_there: impl Fn() -> bool + Clone + Send + 'static,
) -> Option<R> {
    let (worker, answer) = match send(request) {
        Ok(sent) => sent,
        // Where there can be no thread, it is waited for as it is.
        Err(request) => return Some(request()),
    };
    loop {
        match answer.recv_timeout(LOOK) {
            Ok(answered) => {
                come_back(worker);
                return Some(answered);
            }
            Err(RecvTimeoutError::Timeout) => {
                // Who looks may have to wait as well.
                if let Ok((looker, seen)) = send(is_there.clone())
                    && let Ok(is_there) = seen.recv_timeout(LOOK)
                {
                    come_back(looker);
                    if !is_there {
                        return None;
                    }
                }
            }
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Sends somebody, who may not come back; or gives the errand back if nobody is to be had.
#[allow(clippy::type_complexity, reason = "it is who was sent, and what he will bring")]
fn send<R: Send + 'static, F: FnOnce() -> R + Send + 'static>(
    request: F,
) -> Result<(Sender<Errand>, Receiver<R>), F> {
    let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let Some(worker) = idle.or_else(hire) else { return Err(request) };
    let (answer, answered) = mpsc::channel();
    // Nobody listens any more who has given it up.
    let errand = Box::new(move || drop(answer.send(request())));
    match worker.send(errand) {
        Ok(()) => Ok((worker, answered)),
        // A worker ends only with the process. Were it not so, the request would not have been made, as the channel tells.
        Err(_) => Ok((worker, answered)),
    }
}

/// A new thread for errands, if there can be one.
fn hire() -> Option<Sender<Errand>> {
    let (worker, errands) = mpsc::channel::<Errand>();
    let work = move || errands.into_iter().for_each(|errand| errand());
    let thread = thread::Builder::new().name("libdma".into()).stack_size(STACK);
    thread.spawn(work).ok().map(|_| worker)
}

/// Has one who has come back wait to be sent again.
fn come_back(worker: Sender<Errand>) {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, Ordering};
    use std::sync::Arc;

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
    #[cfg_attr(miri, ignore = "leaves threads behind, which Miri takes for a mistake")]
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
