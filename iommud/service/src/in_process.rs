//! A transport for drivers in the same process: the bare guest, where there are no processes, and tests.
//!
//! It calls the service directly. A request that pends is polled until hardware has confirmed or its unit
//! is given up, whichever deadline comes first; nothing else goes on meanwhile, for there is one thread.
#![allow(unsafe_code)]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use iommu_engine::platform::{Platform, RunId};
use libdma::Error;
use libdma::protocol::call::Opcode;
use libdma::transport::{Mapping, NotSupplied, RawHandle, Supply, Transport};
use spin::{Mutex, MutexGuard};

use crate::handles::handle::HandleId;
use crate::memory::register::Awaited;
use crate::pending::{Answer, Completed, Outcome, RequestId};
use crate::service::{Caller, Service};

/// A platform that shares its address space with the drivers.
///
/// # Safety
///
/// The memory of a run is valid for reads and writes of the run's length, aligned to 4096, and part of no
/// Rust object, from the run's allocation until it is freed.
pub unsafe trait RunMemory {
    /// Where a run is.
    fn run_memory(&self, run: RunId) -> Option<NonNull<u8>>;

    /// Makes a run of memory that a driver supplies. It is not freed with the run: it stays the driver's.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwnMemory`] for what is no memory.
    ///
    /// # Safety
    ///
    /// It is `bytes` of memory (a multiple of 4096, not zero), as a run's has to be until the run is freed. Nothing is
    /// in it that the driver does not want devices to reach.
    unsafe fn adopt(&mut self, memory: NonNull<u8>, bytes: u64) -> Result<RunId, Error>;
}

/// The transport: one client.
pub struct InProcess<P> {
    service: Arc<Mutex<Service<P>>>,
    /// The number of its handle to the root.
    root: AtomicU64,
    caller: Caller,
    requests: AtomicU64,
}

impl<P: Platform> InProcess<P> {
    /// A client of this service, with the rights of this caller.
    ///
    /// # Safety
    ///
    /// As long as anything that was mapped through this is in use, nobody closes handles of the service or
    /// frees runs of its platform but through a transport.
    /// A buffer that is mapped twice, as a `SharedBuffer` too, is the same memory at the same address here: the two are not
    /// used by two threads at once.
    pub unsafe fn new(service: Arc<Mutex<Service<P>>>, caller: Caller) -> Self {
        let root = AtomicU64::new(service.lock().root().0);
        Self { service, root, caller, requests: AtomicU64::new(0) }
    }

    /// How many requests have been made: opens, derivations, calls, reads and maps of memory. What costs none is what a
    /// driver does without a word to the service.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Has iommud die and a successor take its place: all handles of before are dead, and what they stood for waits for its
    /// clients.
    pub fn restart(&self) {
        self.service.lock().orphan_all();
    }

    /// Whether a handle is not of a service of before.
    pub fn is_current(&self, handle: RawHandle) -> bool {
        Self::known(&self.service.lock(), handle).is_ok()
    }

    /// The service, for one request.
    fn request(&self) -> MutexGuard<'_, Service<P>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.service.lock()
    }

    /// The handle of this number.
    ///
    /// # Errors
    ///
    /// [`Error::DaemonGone`] if it is of a service of before, which this one has adopted from.
    fn known(service: &Service<P>, handle: RawHandle) -> Result<HandleId, Error> {
        let handle = HandleId(handle.number());
        match handle.incarnation() == service.incarnation() {
            true => Ok(handle),
            false => Err(Error::DaemonGone),
        }
    }

    /// The answer to a request, when hardware has confirmed it.
    fn wait(service: &mut Service<P>, request: RequestId) -> Result<Answer, Error> {
        // One thread, one request: no other can be pending. A unit that does not confirm is given up at
        // its deadline, which ends this.
        loop {
            for Completed { request: done, result } in service.poll() {
                if done == request {
                    return result;
                }
            }
        }
    }

    fn handle(service: &mut Service<P>, outcome: Outcome<HandleId>) -> Result<RawHandle, Error> {
        let handle = match outcome {
            Outcome::Done(handle) => handle,
            Outcome::Pending(request) => match Self::wait(service, request)? {
                Answer::Handle(handle) => handle,
                Answer::Payload(_) => return Err(Error::BadValue),
            },
        };
        Ok(RawHandle::from_number(handle.0))
    }
}

// SAFETY: the service has just opened a handle, and nobody else was told of it. `map` gives out a run's own memory, which `RunMemory` vouches for. The service keeps a run until
// the buffer's last handle is closed and hardware has confirmed; libdma closes a buffer's handle only after
// `unmap`.
unsafe impl<P: Platform + RunMemory + Send> Transport for InProcess<P> {
    fn open(&self, path: &str) -> Result<RawHandle, Error> {
        let service = &mut *self.request();
        let mut root = HandleId(self.root.load(Ordering::Relaxed));
        if root.incarnation() != service.incarnation() {
            root = service.root();
            self.root.store(root.0, Ordering::Relaxed);
        }
        let outcome = service.open(root, path, self.caller)?;
        Self::handle(service, outcome)
    }

    unsafe fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        let service = &mut *self.request();
        let outcome = service.derive(Self::known(service, handle)?, request)?;
        Self::handle(service, outcome)
    }

    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        let service = &mut *self.request();
        match service.call(Self::known(service, handle)?, opcode as u64, payload)? {
            Outcome::Done(length) => Ok(length),
            Outcome::Pending(request) => {
                let Answer::Payload(answer) = Self::wait(service, request)? else {
                    return Err(Error::BadValue);
                };
                let answer: Vec<u8> = answer;
                payload
                    .get_mut(..answer.len())
                    .ok_or(Error::ShortPayload)?
                    .copy_from_slice(&answer);
                Ok(answer.len())
            }
        }
    }

    unsafe fn read(&self, handle: RawHandle, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        let service = self.request();
        service.read(Self::known(&service, handle)?, offset, out)
    }

    unsafe fn map(
        &self,
        handle: RawHandle,
        bytes: usize,
        writable: bool,
    ) -> Result<Mapping, Error> {
        let service = self.request();
        let grant = service.grant(Self::known(&service, handle)?, 0, bytes as u64, writable)?;
        let memory = service.platform().run_memory(grant.run).ok_or(Error::BadAddress)?;
        Ok(Mapping { memory, length: bytes })
    }

    fn place(&self, supply: &Supply) -> Result<u64, Error> {
        match supply.object {
            None => Ok(supply.memory.addr().get() as u64),
            Some(_) => Err(Error::NotMemory),
        }
    }

    unsafe fn supply(&self, handle: RawHandle, supply: &Supply) -> Result<(), NotSupplied> {
        let service = &mut *self.request();
        let handle = Self::known(service, handle)?;
        let awaited = service.awaited(handle)?;
        let place = Awaited { address: self.place(supply)?, bytes: supply.bytes as u64 };
        if awaited != place {
            return Err(Error::OutOfBuffer.into());
        }
        // SAFETY: the caller gives this memory away for good.
        let run = unsafe { service.platform_mut().adopt(supply.memory, awaited.bytes) }?;
        match service.supply(handle, run) {
            Ok(Outcome::Done(())) => Ok(()),
            // Whatever it comes to, the buffer has the memory.
            Ok(Outcome::Pending(request)) => Self::wait(service, request)
                .map(drop)
                .map_err(|error| NotSupplied { error, is_gone: true }),
            Err((error, is_out_of_reach)) => {
                if is_out_of_reach {
                    service.platform_mut().free_run(run);
                }
                Err(NotSupplied { error, is_gone: !is_out_of_reach })
            }
        }
    }

    unsafe fn unmap(&self, _mapping: Mapping) {
        // The memory is the run's own and stays where it is.
    }

    unsafe fn close(&self, handle: RawHandle) {
        let mut service = self.service.lock();
        if let Ok(handle) = Self::known(&service, handle) {
            service.close(handle);
        }
    }
}
