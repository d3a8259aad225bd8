//! The transport of a simulated machine, which a test can count and disturb.

use iommu_service::in_process::InProcess;
use iommud::platform::sim::SimPlatform;
use libdma::Error;
use libdma::protocol::call::Opcode;
use libdma::transport::{Mapping, NotSupplied, RawHandle, Supply, Transport};
use spin::Mutex;

/// A client of the service that counts what it asks, and fails what a test wants to fail.
pub struct Tap {
    inner: InProcess<SimPlatform>,
    refusal: Mutex<Option<Refusal>>,
}

/// Which requests fail, and how.
#[derive(Clone, Copy)]
struct Refusal {
    /// How many still succeed before.
    after: u64,
    /// How many fail then.
    times: u64,
    error: Error,
}

impl Tap {
    pub(crate) fn new(inner: InProcess<SimPlatform>) -> Self {
        Self { inner, refusal: Mutex::new(None) }
    }

    /// How many requests have been made that the service was told of: opens, derivations, calls, reads and maps of
    /// memory. What costs none is what a driver does without a word to iommud.
    pub fn requests(&self) -> u64 {
        self.inner.requests()
    }

    /// Lets this many requests pass from now on, and this many after them fail without reaching the service.
    pub fn refuse(&self, after: u64, times: u64, error: Error) {
        *self.refusal.lock() = Some(Refusal { after, times, error });
    }

    /// Lets all requests pass.
    pub fn refuse_none(&self) {
        *self.refusal.lock() = None;
    }

    fn request(&self) -> Result<(), Error> {
        let refusal = &mut *self.refusal.lock();
        match refusal {
            Some(Refusal { after, .. }) if *after > 0 => {
                *after -= 1;
                Ok(())
            }
            Some(Refusal { times, error, .. }) if *times > 0 => {
                *times -= 1;
                Err(*error)
            }
            _ => Ok(()),
        }
    }
}

// SAFETY: all is done by the transport within, and a request that fails has not been made.
unsafe impl Transport for Tap {
    fn open(&self, path: &str) -> Result<RawHandle, Error> {
        self.request()?;
        self.inner.open(path)
    }

    fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        self.request()?;
        self.inner.derive(handle, request)
    }

    fn call(&self, handle: RawHandle, opcode: Opcode, payload: &mut [u8]) -> Result<usize, Error> {
        self.request()?;
        self.inner.call(handle, opcode, payload)
    }

    fn read(&self, handle: RawHandle, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        self.request()?;
        self.inner.read(handle, offset, out)
    }

    fn map(&self, handle: RawHandle, bytes: usize, writable: bool) -> Result<Mapping, Error> {
        self.request()?;
        self.inner.map(handle, bytes, writable)
    }

    fn place(&self, supply: &Supply) -> Result<u64, Error> {
        self.inner.place(supply)
    }

    unsafe fn supply(&self, handle: RawHandle, supply: &Supply) -> Result<(), NotSupplied> {
        self.request()?;
        // SAFETY: the caller's promise is what the transport within asks for.
        unsafe { self.inner.supply(handle, supply) }
    }

    unsafe fn unmap(&self, mapping: Mapping) {
        // SAFETY: the caller's promise is what the transport within asks for.
        unsafe { self.inner.unmap(mapping) };
    }

    unsafe fn close(&self, handle: RawHandle) {
        // SAFETY: as in `unmap`.
        unsafe { self.inner.close(handle) };
    }
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("requests", &self.requests()).finish_non_exhaustive()
    }
}
