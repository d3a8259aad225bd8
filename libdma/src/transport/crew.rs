//! Threads that make requests for others, and wait for the next.
//!
//! A thread for each request would cost a hundred times what the request does: on Redox it is a process of the process
//! manager's, with a stack of its own to be mapped and unmapped.
//!
//! They do not end while they wait: who ends gives up descriptors, and in a child that is born in just that moment relibc's list of
//! them is not what the kernel has (by reading, 63599227; seen: a driver that `iommu-run` had started could open nothing more).
//!
//! None waits for long at a time. The kernel finds who waits for a word of memory by the frame that the word is in, and after
//! a `fork` it is in another: a thread that waits meanwhile is not woken (seen; 663e6641, `syscall/futex.rs`). It finds what it was sent
//! when it looks again. A child that is born meanwhile has none of them, and knows them by the process that they
//! are of. Nor does anybody wait for the lock: a child may be born with it locked, by a thread that it does not have.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use std::process;
use std::thread;

use spin::{Mutex, MutexGuard};

use super::slot::{Giver, Nothing, Taker, slot};

/// Something to be done. When it is, but before anybody is told, this is called: who is told may send somebody again.
pub(super) type Errand = Box<dyn FnOnce(&mut dyn FnMut()) + Send>;

/// How long a thread waits for another errand before it looks whether it was woken in vain.
const REST: Duration = Duration::from_secs(1);

/// How many wait at the most. Others end when they are back.
const MOST: usize = 4;

/// As much stack as a request takes, and some.
const STACK: usize = 128 << 10;

/// A thread that waits.
struct Resting {
    process: u32,
    next: Giver<Errand>,
}

/// Those that wait, who came last at the end.
static RESTING: Mutex<Vec<Resting>> = Mutex::new(Vec::new());

/// Sends somebody; or gives the errand back, if nobody is to be had.
pub(super) fn send(errand: Errand) -> Result<(), Errand> {
    let Some(resting) = resting().and_then(|mut all| all.pop()) else { return hire(errand) };
    resting.next.give(errand);
    Ok(())
}

/// Those of this process that wait, if nobody is looking at them.
fn resting() -> Option<MutexGuard<'static, Vec<Resting>>> {
    let mut all = RESTING.try_lock()?;
    let own = process::id();
    all.retain(|resting| resting.process == own);
    Some(all)
}

/// Has a new thread do it.
fn hire(errand: Errand) -> Result<(), Errand> {
    // A thread that cannot be made drops what it was to do.
    let errand = Arc::new(Mutex::new(Some(errand)));
    let given = errand.clone();
    let thread = thread::Builder::new().name("libdma".into()).stack_size(STACK);
    let hired = thread.spawn(move || {
        let first = given.lock().take();
        first.into_iter().for_each(work);
    });
    match hired {
        Ok(_) => Ok(()),
        Err(_) => errand.lock().take().map_or(Ok(()), Err),
    }
}

/// Does this, and what comes after it, unless enough others wait for that.
fn work(first: Errand) {
    let (_, errands) = slot();
    let mut errand = first;
    loop {
        let mut rests = false;
        errand(&mut || {
            let Some(mut all) = resting().filter(|all| all.len() < MOST) else { return };
            all.push(Resting { process: process::id(), next: errands.giver() });
            rests = true;
        });
        if !rests {
            return;
        }
        let Some(following) = wait(&errands) else { return };
        errand = following;
    }
}

/// The next errand; `None` if nobody can send it any more.
fn wait(errands: &Taker<Errand>) -> Option<Errand> {
    loop {
        match errands.take(REST) {
            Ok(errand) => return Some(errand),
            Err(Nothing::Ever) => return None,
            Err(Nothing::Yet) => {}
        }
    }
}

// Miri takes it for a mistake that threads are left behind.
#[cfg(all(test, not(miri)))]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc::channel;
    use std::thread::ThreadId;

    use super::*;

    /// Has it done, and waits for what it gives.
    fn answer<R: Send + 'static>(act: impl FnOnce() -> R + Send + 'static) -> R {
        let (tell, told) = channel();
        let errand: Errand = Box::new(move |done| {
            let acted = act();
            done();
            tell.send(acted).unwrap();
        });
        assert!(send(errand).is_ok());
        told.recv().unwrap()
    }

    #[test]
    fn who_has_come_back_is_sent_again() {
        let threads: HashSet<ThreadId> =
            (0..100).map(|_| answer(|| thread::current().id())).collect();
        // Another test may have sent some of them.
        assert!(threads.len() < 50, "{} threads", threads.len());
        assert!(!threads.contains(&thread::current().id()));
    }

    #[test]
    fn those_of_the_process_that_this_one_was_born_of_are_not_sent() {
        let (next, errands) = slot();
        let parents = Resting { process: process::id() + 1, next };
        RESTING.lock().push(parents);
        assert_eq!(answer(|| 7), 7);
        assert_eq!(errands.take(REST).err(), Some(Nothing::Ever));
    }
}
