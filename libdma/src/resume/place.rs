//! Where a handle's number is.

use alloc::sync::Arc;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Mutex;

use crate::transport::{RawHandle, Transport};

/// A handle that is open. Dropping it closes it.
pub(crate) struct Open {
    transport: Arc<dyn Transport>,
    raw: RawHandle,
    is_given_up: AtomicBool,
}

impl Open {
    /// Owns a handle.
    ///
    /// # Safety
    ///
    /// It is of this transport, open, and nobody else closes it.
    pub(crate) unsafe fn new(transport: Arc<dyn Transport>, raw: RawHandle) -> Self {
        Self { transport, raw, is_given_up: AtomicBool::new(false) }
    }

    /// Its number, as long as this lives.
    #[inline]
    pub(crate) fn raw(&self) -> RawHandle {
        self.raw
    }

    /// Leaves it open.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !*self.is_given_up.get_mut() {
            // SAFETY: it is open, of this transport and this one's alone. Who uses what was mapped by it keeps a handle
            // to the same.
            unsafe { self.transport.close(self.raw) };
        }
    }
}

/// Where a handle's number is: another after each restart of iommud. Who makes a request holds on to the one that it began
/// with, so that no number is closed, and given out again, while somebody uses it.
pub(crate) struct Place {
    transport: Arc<dyn Transport>,
    open: Mutex<Arc<Open>>,
    streamed: Streamed,
}

/// Where a stream has all of the handle's buffer mapped, in no explicit domain, as far as it was told. No buffer has two
/// streams, so that it is one note, for which nothing is searched. It is written and read while the session's link is locked.
#[derive(Default)]
struct Streamed {
    iova: AtomicU64,
    /// The how manieth noted mapping it is, or zero if there is none.
    number: AtomicU64,
}

impl Place {
    /// Of this handle.
    pub(crate) fn new(open: Open) -> Arc<Self> {
        let transport = open.transport.clone();
        let (open, streamed) = (Mutex::new(Arc::new(open)), Streamed::default());
        Arc::new(Self { transport, open, streamed })
    }

    /// The transport that the handle is of, whichever it is.
    #[inline]
    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The handle that there is now.
    #[inline]
    pub(crate) fn open(&self) -> Arc<Open> {
        self.open.lock().clone()
    }

    /// Puts the one of another place here, and this one there.
    pub(crate) fn swap(&self, other: &Self) {
        let theirs = other.open();
        let ours = mem::replace(&mut *self.open.lock(), theirs);
        *other.open.lock() = ours;
    }

    /// Notes that a stream has all of the buffer mapped there.
    #[inline]
    pub(super) fn set_streamed(&self, iova: u64, number: u64) {
        self.streamed.iova.store(iova, Ordering::Relaxed);
        self.streamed.number.store(number, Ordering::Relaxed);
    }

    /// Notes that no stream has.
    #[inline]
    pub(super) fn clear_streamed(&self) {
        self.streamed.number.store(0, Ordering::Relaxed);
    }

    /// Where a stream has all of the buffer mapped, and the how manieth noted mapping it is.
    pub(super) fn streamed(&self) -> Option<(u64, u64)> {
        let number = self.streamed.number.load(Ordering::Relaxed);
        (number > 0).then(|| (self.streamed.iova.load(Ordering::Relaxed), number))
    }
}
