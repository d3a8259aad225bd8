//! What leads to the service, and changes what it says.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fuzz::Chance;
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::Opcode;
use libdma::protocol::derive::{Copy, Kind};
use libdma::transport::{Mapping, NotSupplied, RawHandle, Supply, Transport};
use simulated::Tap;
use zerocopy::IntoBytes;

/// How many requests one thing takes at the most that a driver asks for.
const MOST_REQUESTS: u64 = 20_000;

/// How it lies.
struct Lies {
    chance: Chance,
    /// Once in so many requests.
    rate: usize,
    /// For how many requests more it is gone.
    gone: usize,
}

/// A way to the service that cannot be trusted.
pub(crate) struct Liar {
    inner: Arc<Tap>,
    lies: Mutex<Option<Lies>>,
    requests: AtomicU64,
    /// The handle that was opened last.
    last: Mutex<Option<RawHandle>>,
}

impl Liar {
    pub(crate) fn new(inner: Arc<Tap>) -> Self {
        let (lies, last) = (Mutex::new(None), Mutex::new(None));
        Self { inner, lies, requests: AtomicU64::new(0), last }
    }

    /// Lies anew from now on, in some way.
    pub(crate) fn begin(&self, chance: &mut Chance) {
        let rate = chance.one_of(&[1, 2, 4, 8, 8, 30, 1000]);
        let lies = Lies { chance: Chance::of(chance.next()), rate, gone: 0 };
        *self.lies.lock().unwrap() = Some(lies);
        self.requests.store(0, Ordering::Relaxed);
    }

    pub(crate) fn tell_the_truth(&self) {
        *self.lies.lock().unwrap() = None;
    }

    /// Counts a request, and says whether it is one to lie at, and how.
    fn lie(&self) -> Result<Option<Chance>, Error> {
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        assert!(count < MOST_REQUESTS, "it asks for good");
        let lies = &mut *self.lies.lock().unwrap();
        let Some(lies) = lies else { return Ok(None) };
        if lies.gone > 0 {
            lies.gone -= 1;
            return Err(Error::DaemonGone);
        }
        if !lies.chance.once_in(lies.rate) {
            return Ok(None);
        }
        if lies.chance.once_in(8) {
            lies.gone = lies.chance.below(30);
            return Err(Error::DaemonGone);
        }
        Ok(Some(Chance::of(lies.chance.next())))
    }

    /// What may be answered instead of a handle.
    fn answer(
        &self,
        answered: Result<RawHandle, Error>,
        lie: Option<Chance>,
    ) -> Result<RawHandle, Error> {
        let last = &mut *self.last.lock().unwrap();
        if let (Ok(handle), Some(mut chance)) = (answered, lie) {
            let other = chance.once_in(2).then_some(*last).flatten().and_then(|other| {
                let rights =
                    (Rights::all() & Rights::from_bits_truncate(chance.next() as u32)).bits();
                let rights = if chance.once_in(2) { Rights::BUFFER.bits() } else { rights };
                let copy = Copy { kind: (Kind::Copy as u32).into(), rights: rights.into() };
                // SAFETY: the service looks whether it is open.
                unsafe { self.inner.derive(other, copy.as_bytes()) }.ok()
            });
            // SAFETY: it was opened just now, and nobody was told of it.
            unsafe { self.inner.close(handle) };
            return other.ok_or_else(|| error(&mut chance));
        }
        if let Ok(handle) = answered {
            *last = Some(handle);
        }
        answered
    }
}

/// Any error.
fn error(chance: &mut Chance) -> Error {
    Error::from_errno(chance.below(140) as u16)
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, 4096).ok().filter(|layout| layout.size() > 0)
}

// SAFETY: handles are those of the transport within, each given out once, and memory is taken for each mapping; what is told
// beside them owes nothing.
unsafe impl Transport for Liar {
    fn open(&self, path: &str) -> Result<RawHandle, Error> {
        let lie = self.lie()?;
        self.answer(self.inner.open(path), lie)
    }

    unsafe fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        let lie = self.lie()?;
        // SAFETY: the caller's promise is what the transport within asks for.
        self.answer(unsafe { self.inner.derive(handle, request) }, lie)
    }

    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        let Some(mut chance) = self.lie()? else {
            // SAFETY: as in `derive`.
            return unsafe { self.inner.call(handle, opcode, payload) };
        };
        let mut answer = payload.to_vec();
        let answered = match chance.once_in(4) {
            true => Ok(answer.len()),
            // SAFETY: as in `derive`.
            false => unsafe { self.inner.call(handle, opcode, &mut answer) },
        };
        if chance.once_in(3) {
            return Err(error(&mut chance));
        }
        let mut length = answered.unwrap_or(answer.len());
        for _ in 0..1 + chance.below(3) {
            // Most is words of four bytes or eight, and of the latter most are of whole pages.
            let bytes = chance.one_of(&[1, 4, 4, 8, 8, 8, 8]);
            let at = chance.below(answer.len()) / bytes * bytes;
            let pages = if bytes == 8 && !chance.once_in(4) { !0xfff } else { u64::MAX };
            let long = (chance.long() & pages).to_le_bytes();
            answer.iter_mut().skip(at).zip(&long[..bytes]).for_each(|(byte, new)| *byte = *new);
        }
        if chance.once_in(8) {
            length = chance.below(answer.len() + 1);
        }
        payload.copy_from_slice(&answer);
        Ok(length)
    }

    unsafe fn read(&self, handle: RawHandle, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        self.lie()?;
        // SAFETY: as in `derive`.
        unsafe { self.inner.read(handle, offset, out) }
    }

    unsafe fn map(
        &self,
        handle: RawHandle,
        bytes: usize,
        writable: bool,
    ) -> Result<Mapping, Error> {
        if let Some(mut chance) = self.lie()? {
            return Err(error(&mut chance));
        }
        // SAFETY: as in `derive`.
        let there = unsafe { self.inner.map(handle, bytes, writable) }?;
        // SAFETY: it was mapped just now, and nobody was told where.
        unsafe { self.inner.unmap(there) };
        // Memory that the service gives up, because it lost track of it, must be the driver's still, as a mapping is.
        let layout = layout(bytes).ok_or(Error::TooLarge)?;
        // SAFETY: it is not of no bytes, for the service has mapped some.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Error::OutOfMemory)?;
        Ok(Mapping { memory, length: bytes })
    }

    fn place(&self, supply: &Supply) -> Result<u64, Error> {
        self.inner.place(supply)
    }

    unsafe fn supply(&self, _: RawHandle, _: &Supply) -> Result<(), NotSupplied> {
        Err(Error::NotMemory.into())
    }

    fn pause(&self, tries: u32) -> bool {
        tries < 3
    }

    unsafe fn unmap(&self, mapping: Mapping) {
        let layout = layout(mapping.length).expect("it was mapped");
        // SAFETY: `map` has taken it so, and it is not used any more.
        unsafe { dealloc(mapping.memory.as_ptr(), layout) };
    }

    unsafe fn close(&self, handle: RawHandle) {
        let last = &mut *self.last.lock().unwrap();
        if *last == Some(handle) {
            *last = None;
        }
        // SAFETY: as in `derive`.
        unsafe { self.inner.close(handle) };
    }
}
