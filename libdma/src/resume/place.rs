//! Where a handle's number is.

use alloc::sync::Arc;
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering};

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
}

impl Place {
    /// Of this handle.
    pub(crate) fn new(open: Open) -> Arc<Self> {
        let transport = open.transport.clone();
        Arc::new(Self { transport, open: Mutex::new(Arc::new(open)) })
    }

    /// The transport that the handle is of, whichever it is.
    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// The handle that there is now.
    pub(crate) fn open(&self) -> Arc<Open> {
        self.open.lock().clone()
    }

    /// Puts the one of another place here, and this one there.
    pub(crate) fn swap(&self, other: &Self) {
        let theirs = other.open();
        let ours = mem::replace(&mut *self.open.lock(), theirs);
        *other.open.lock() = ours;
    }
}
