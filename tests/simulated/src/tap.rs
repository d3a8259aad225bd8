//! The transport of a simulated machine, which a test can count and disturb.

use std::mem;
use std::time::Duration;

use iommu_engine::platform::Platform;
use iommu_service::in_process::InProcess;
use iommu_service::{Service, Settings};
use iommu_sim::MachineConfig;
use iommud::platform::sim::SimPlatform;
use libdma::Error;
use libdma::protocol::call::Opcode;
use libdma::transport::{Mapping, NotSupplied, RawHandle, Supply, Transport};
use spin::Mutex;

use crate::machine::{ROOT, Shared, started};

/// A client of the service that counts what it asks, and fails what a test wants to fail.
pub struct Tap {
    inner: InProcess<SimPlatform>,
    service: Shared,
    settings: Settings,
    /// What is in the service's place while it is nobody's.
    place: Mutex<Option<Service<SimPlatform>>>,
    refusal: Mutex<Option<Refusal>>,
    meanwhile: Mutex<Option<Meanwhile>>,
    stands_in: Mutex<Option<StandsIn>>,
    deaths: Mutex<Option<Deaths>>,
    /// After how many requests it dies once, and when.
    death: Mutex<Option<(u64, Dies)>>,
}

/// When iommud dies.
struct Deaths {
    /// What the next is drawn from.
    random: u64,
    /// How many requests there are to each, about.
    requests: u64,
    /// How many there have been.
    deaths: u64,
}

/// When iommud dies of a request, if it does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dies {
    Not,
    Before,
    After,
}

/// What happens while a request is refused, or before its answer is given.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// Who answers calls in iommud's place, if it likes.
type StandsIn = Box<dyn FnMut(Opcode, &mut [u8]) -> Option<Result<usize, Error>> + Send>;

/// Which requests fail, and how.
#[derive(Clone, Copy)]
struct Refusal {
    /// How many still succeed before.
    after: u64,
    /// What becomes of the first then.
    first: Fate,
    /// How many there are that something becomes of.
    times: u64,
    error: Error,
}

/// What becomes of a request.
#[derive(Clone, Copy)]
enum Fate {
    /// It is carried out, and its answer given.
    Answered,
    /// It is carried out, and its answer given after what happens meanwhile.
    Late,
    /// It is carried out, and fails.
    Lost(Error),
    /// It does not reach the service, and fails.
    Refused(Error),
}

impl Tap {
    pub(crate) fn new(service: Shared, settings: Settings) -> Self {
        // SAFETY: tests close buffers by dropping them, and free no runs of the platform's.
        let inner = unsafe { InProcess::new(service.clone(), ROOT) };
        Self {
            inner,
            service,
            settings,
            place: Mutex::new(None),
            refusal: Mutex::new(None),
            meanwhile: Mutex::new(None),
            stands_in: Mutex::new(None),
            deaths: Mutex::new(None),
            death: Mutex::new(None),
        }
    }

    /// Has iommud die and a successor take its place, which adopts what it can.
    pub(crate) fn restart(&self) {
        let service = &mut *self.service.lock();
        let place = &mut *self.place.lock();
        let other = place.take().unwrap_or_else(|| {
            let other = SimPlatform::new(MachineConfig::default()).expect("a machine's memory");
            started(other, Settings::default())
        });
        let dead = mem::replace(service, other);
        let incarnation = dead.incarnation();
        let mut platform = dead.into_platform();
        platform.inherit();
        let next = match Service::adopt(platform, self.settings.clone()) {
            Ok(next) => next,
            Err((_, mut platform)) => {
                platform.set_aside_inherited();
                started(platform, self.settings.clone())
            }
        };
        *place = Some(mem::replace(service, next));
        while !service.engine().is_settled() {
            service.platform_mut().advance_time(Duration::from_micros(10));
            service.poll();
        }
        // One that has adopted nothing does not know how many there were, and handles of before are to be known as such.
        while service.incarnation() <= incarnation {
            service.orphan_all();
        }
    }

    /// How many requests have been made that the service was told of: opens, derivations, calls, reads and maps of
    /// memory. What costs none is what a driver does without a word to iommud.
    pub fn requests(&self) -> u64 {
        self.inner.requests()
    }

    /// Lets this many requests pass from now on, and this many after them fail without reaching the service.
    pub fn refuse(&self, after: u64, times: u64, error: Error) {
        *self.refusal.lock() = Some(Refusal { after, first: Fate::Refused(error), times, error });
    }

    /// Lets this many requests pass from now on. The next is carried out and its answer lost, and all that follow fail
    /// without reaching the service: its daemon is gone. As the operating system does then, descriptors in the answer are
    /// closed, and those that the client has are when it closes them.
    pub fn lose(&self, after: u64) {
        let error = Error::DaemonGone;
        *self.refusal.lock() =
            Some(Refusal { after, first: Fate::Lost(error), times: u64::MAX, error });
    }

    /// Lets so many requests pass, and has the next one carried out and its answer given after what happens
    /// [meanwhile](Self::meanwhile).
    pub fn delay(&self, after: u64) {
        let error = Error::DaemonGone;
        *self.refusal.lock() = Some(Refusal { after, first: Fate::Late, times: 1, error });
    }

    /// Does this while the next request is refused, or carried out and its answer lost or late, as another thread might: once.
    pub fn meanwhile(&self, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock() = Some(Box::new(act));
    }

    /// Has somebody else answer calls from now on, those that it has an answer to; iommud does not hear of these.
    pub fn stand_in(
        &self,
        answer: impl FnMut(Opcode, &mut [u8]) -> Option<Result<usize, Error>> + Send + 'static,
    ) {
        *self.stands_in.lock() = Some(Box::new(answer));
    }

    /// Has nobody do so any more.
    pub fn stand_in_none(&self) {
        *self.stands_in.lock() = None;
    }

    /// Lets all requests pass.
    pub fn refuse_none(&self) {
        *self.refusal.lock() = None;
    }

    /// Has iommud die at random from now on, and a successor take its place each time: about once in so many requests, before
    /// the request is carried out, or after that and before it is answered.
    pub fn die(&self, seed: u64, requests: u64) {
        *self.deaths.lock() = Some(Deaths { random: seed, requests, deaths: 0 });
    }

    /// Has iommud die of the next request, when that is carried out and not answered, or before.
    pub fn die_once(&self, is_done: bool) {
        self.die_after(0, is_done);
    }

    /// The same of a later request, so many after the next.
    pub fn die_after(&self, requests: u64, is_done: bool) {
        *self.death.lock() = Some((requests, if is_done { Dies::After } else { Dies::Before }));
    }

    /// Has iommud live from now on; how often it has died.
    pub fn live(&self) -> u64 {
        self.deaths.lock().take().map_or(0, |deaths| deaths.deaths)
    }

    /// Whether iommud dies of the next request.
    fn dies(&self) -> Dies {
        let death = &mut *self.death.lock();
        match death {
            Some((0, dies)) => {
                let dies = *dies;
                *death = None;
                return dies;
            }
            Some((requests, _)) => *requests -= 1,
            None => {}
        }
        let Some(deaths) = &mut *self.deaths.lock() else { return Dies::Not };
        // Numerical Recipes' generator: its upper half is random enough.
        deaths.random = deaths
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let drawn = deaths.random >> 33;
        if !drawn.is_multiple_of(deaths.requests) {
            return Dies::Not;
        }
        deaths.deaths += 1;
        if (drawn / deaths.requests).is_multiple_of(2) { Dies::Before } else { Dies::After }
    }

    fn fate(&self) -> Fate {
        match &mut *self.refusal.lock() {
            Some(Refusal { after, .. }) if *after > 0 => {
                *after -= 1;
                Fate::Answered
            }
            Some(Refusal { times, first, error, .. }) if *times > 0 => {
                *times -= 1;
                mem::replace(first, Fate::Refused(*error))
            }
            _ => Fate::Answered,
        }
    }

    /// Makes a request; `close` does away with an answer that nobody gets.
    fn request<R>(
        &self,
        make: impl FnOnce() -> Result<R, Error>,
        close: impl FnOnce(R),
    ) -> Result<R, Error> {
        match self.fate() {
            Fate::Answered => self.make(make),
            Fate::Late => {
                let made = make();
                self.pass();
                made
            }
            Fate::Lost(error) => {
                let _ = make().map(close);
                self.pass();
                Err(error)
            }
            Fate::Refused(error) => {
                self.pass();
                Err(error)
            }
        }
    }

    /// Does what is to be done meanwhile, if anything.
    fn pass(&self) {
        let meanwhile = self.meanwhile.lock().take();
        meanwhile.into_iter().for_each(|act| act());
    }

    /// Has a request carried out, if iommud does not die of it.
    fn make<R>(&self, make: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        match self.dies() {
            Dies::Not => make(),
            Dies::Before => {
                self.restart();
                make()
            }
            Dies::After => {
                // Whatever it opened is dead with it.
                let _ = make();
                self.restart();
                Err(Error::DaemonGone)
            }
        }
    }

    /// Closes a handle that nobody has been told of.
    fn close_unseen(&self, handle: RawHandle) {
        // SAFETY: the service has just opened it, and nobody else has it.
        unsafe { self.inner.close(handle) };
    }
}

// SAFETY: all is done by the transport within, and a request that fails has not been made, or nobody has its answer.
unsafe impl Transport for Tap {
    fn open(&self, path: &str) -> Result<RawHandle, Error> {
        self.request(|| self.inner.open(path), |handle| self.close_unseen(handle))
    }

    unsafe fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        // SAFETY: the caller's promise is what the transport within asks for.
        let make = || unsafe { self.inner.derive(handle, request) };
        self.request(make, |handle| self.close_unseen(handle))
    }

    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        let answered = self.stands_in.lock().as_mut().and_then(|it| it(opcode, payload));
        if let Some(answered) = answered {
            return answered;
        }
        let mut answer = payload.to_vec();
        // What fails leaves the payload as it was, also where the answer to it is lost.
        let length =
            // SAFETY: as in `derive`.
            self.request(|| unsafe { self.inner.call(handle, opcode, &mut answer) }, drop)?;
        payload.copy_from_slice(&answer);
        Ok(length)
    }

    unsafe fn read(&self, handle: RawHandle, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        // SAFETY: as in `derive`.
        self.request(|| unsafe { self.inner.read(handle, offset, out) }, drop)
    }

    unsafe fn map(
        &self,
        handle: RawHandle,
        bytes: usize,
        writable: bool,
    ) -> Result<Mapping, Error> {
        self.request(
            // SAFETY: as in `derive`.
            || unsafe { self.inner.map(handle, bytes, writable) },
            // SAFETY: it was mapped just now, and nobody was told where.
            |mapping| unsafe { self.inner.unmap(mapping) },
        )
    }

    fn place(&self, supply: &Supply) -> Result<u64, Error> {
        self.inner.place(supply)
    }

    unsafe fn supply(&self, handle: RawHandle, supply: &Supply) -> Result<(), NotSupplied> {
        // SAFETY: as in `derive`.
        let make = || unsafe { self.inner.supply(handle, supply) };
        match self.fate() {
            Fate::Answered | Fate::Late => make(),
            Fate::Lost(error) => {
                let is_gone = make().map_or_else(|refused| refused.is_gone, |()| true);
                Err(NotSupplied { error, is_gone })
            }
            Fate::Refused(error) => Err(error.into()),
        }
    }

    fn pause(&self, tries: u32) -> bool {
        // It may die of each request by which a session is resumed.
        self.deaths.lock().is_some() && tries < 10_000
    }

    unsafe fn unmap(&self, mapping: Mapping) {
        // SAFETY: as in `derive`.
        unsafe { self.inner.unmap(mapping) };
    }

    unsafe fn close(&self, handle: RawHandle) {
        // Of what is closed that was dead already, iommud does not hear.
        let dies = if self.inner.is_current(handle) { self.dies() } else { Dies::Not };
        if dies == Dies::Before {
            self.restart();
        }
        // SAFETY: as in `derive`.
        unsafe { self.inner.close(handle) };
        if dies == Dies::After {
            self.restart();
        }
    }
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").field("requests", &self.requests()).finish_non_exhaustive()
    }
}
