//! Sockets for answers that are kept, each for the handle on which the requests are made.
//!
//! One made, sent and closed for each request takes as much as the messages. But who maps and unmaps by a handle does so
//! again and again, and one request of a process after the other can be answered on the same. It is no less safe: iommud makes it, so that
//! nobody else ever has its end, which is closed with the handle's or by iommud's death.

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The sockets of handles that requests were made on which others follow.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<BTreeMap<RawFd, State>>);

/// Where answers come of which iommud knows by this number.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) socket: OwnedFd,
    pub(super) number: u64,
}

/// How it stands with a handle's socket. A child that is born has its parent's sockets, which it must not read, and none of the
/// threads that use them.
#[derive(Debug)]
enum State {
    /// There is none yet: there was one request, which may be the only one.
    None,
    /// Nobody uses it, in this process.
    Idle(u32, Answers),
    /// Somebody in this process does.
    InUse(u32),
    /// iommud does not keep one.
    Refused,
}

/// How a request is to be made.
#[derive(Debug)]
pub(super) enum Turn {
    /// With this, to be [put back](Kept::put).
    Kept(Answers),
    /// With one that is to be made, and put here then.
    First,
    /// With one for itself.
    Alone,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RawFd, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the next request on a handle is to be made.
    pub(super) fn take(&self, handle: RawFd) -> Turn {
        let (own, mut all) = (process::id(), self.lock());
        let Some(state) = all.get_mut(&handle) else {
            all.insert(handle, State::None);
            return Turn::Alone;
        };
        match state {
            State::Refused => return Turn::Alone,
            State::InUse(process) if *process == own => return Turn::Alone,
            State::None | State::Idle(..) | State::InUse(_) => {}
        }
        match std::mem::replace(state, State::InUse(own)) {
            State::Idle(process, answers) if process == own => Turn::Kept(answers),
            // What was a parent's is closed here.
            _ => Turn::First,
        }
    }

    /// Puts a handle's socket back, or in, unless the handle has been closed.
    pub(super) fn put(&self, handle: RawFd, answers: Answers) {
        if let Some(state @ State::InUse(_)) = self.lock().get_mut(&handle) {
            *state = State::Idle(process::id(), answers);
        }
    }

    /// Notes that iommud does not keep a socket for a handle.
    pub(super) fn refuse(&self, handle: RawFd) {
        if let Some(state) = self.lock().get_mut(&handle) {
            *state = State::Refused;
        }
    }

    /// Closes a handle's socket.
    pub(super) fn forget(&self, handle: RawFd) {
        self.lock().remove(&handle);
    }
}
