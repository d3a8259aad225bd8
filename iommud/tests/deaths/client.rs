//! A client in this process that can die: at any of its requests, before it is made, while it pends, or when it is
//! answered.
//!
//! What the operating system does then is done here: every handle is closed, in any order, and nobody is there for
//! answers to come. The daemon and the hardware go on meanwhile.

use std::sync::Arc;

use iommu_engine::platform::BufferRuns;
use iommu_service::in_process::RunMemory;
use iommu_service::{Answer, HandleId, Outcome, Service};
use iommud::platform::sim::SimPlatform;
use libdma::Error;
use libdma::protocol::Rights;
use libdma::protocol::call::Opcode;
use libdma::protocol::derive::{self, Kind};
use libdma::transport::{Mapping, NotSupplied, RawHandle, Supply, Transport};
use simulated::ROOT;
use spin::{Mutex, MutexGuard};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::world::{Inner, World};
use fuzz::Chance;

/// A client.
pub(crate) struct Client {
    world: Arc<World>,
    life: Mutex<Life>,
}

struct Life {
    handles: Vec<HandleId>,
    /// How many requests it makes before that at which it dies, if it is to die at one.
    left: Option<u64>,
    moment: Moment,
    chance: Chance,
    is_dead: bool,
    /// Whether it died at a request, and whether one pended then.
    died_asking: bool,
    died_waiting: bool,
    /// Another handle to its device, which another process has.
    copy: Option<HandleId>,
}

/// When it dies: before a request, when it has made one that pends, or when one is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Before,
    Asked,
    Answered,
}

type Made<T> = Result<Outcome<T>, Error>;

impl Client {
    /// One that dies by [`die`](Self::die), unless it [is to die](Self::dies_after) before.
    pub(crate) fn new(world: Arc<World>, mut chance: Chance) -> Self {
        let root = world.lock().service.root();
        let moment = [Moment::Before, Moment::Asked, Moment::Asked, Moment::Answered];
        let moment = moment[chance.below(moment.len())];
        let life = Life {
            handles: vec![root],
            left: None,
            moment,
            chance,
            is_dead: false,
            died_asking: false,
            died_waiting: false,
            copy: None,
        };
        Self { world, life: Mutex::new(life) }
    }

    /// It makes this many requests, and dies at the next.
    pub(crate) fn dies_after(&self, requests: u64) {
        self.life.lock().left = Some(requests);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.life.lock().is_dead
    }

    /// Whether it died at a request.
    pub(crate) fn died_asking(&self) -> bool {
        self.life.lock().died_asking
    }

    /// Whether one of its requests pended when it died.
    pub(crate) fn died_waiting(&self) -> bool {
        self.life.lock().died_waiting
    }

    /// Lets another process have its device, too, as by a fork.
    pub(crate) fn share(&self) {
        let life = &mut *self.life.lock();
        // The second that it has opened is its device.
        let device = life.handles[1];
        let (kind, rights) = (U32::new(Kind::Copy as u32), U32::new(Rights::DEVICE.bits()));
        let request = derive::Copy { kind, rights };
        let copied = self.world.lock().service.derive(device, request.as_bytes());
        let Ok(Outcome::Done(copy)) = copied else { panic!("{copied:?}") };
        life.copy = Some(copy);
    }

    /// What the other process has.
    pub(crate) fn copy(&self) -> Option<HandleId> {
        self.life.lock().copy
    }

    /// The other process dies, too.
    pub(crate) fn end_copy(&self, copy: HandleId) {
        self.world.lock().service.close(copy);
    }

    /// Dies now, between two requests.
    pub(crate) fn die(&self) {
        end(&mut self.life.lock(), &mut self.world.lock());
    }

    /// Makes a request; what it is answered with becomes `R`.
    fn request<T, R>(
        &self,
        make: impl FnOnce(&mut Service<SimPlatform>, HandleId) -> Made<T>,
        done: impl FnOnce(&mut Life, T) -> R,
        answered: impl FnOnce(&mut Life, Answer) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let life = &mut *self.life.lock();
        if life.is_dead {
            return Err(Error::DaemonGone);
        }
        let moment = match &mut life.left {
            Some(0) => Some(life.moment),
            Some(left) => {
                *left -= 1;
                None
            }
            None => None,
        };
        let world = &mut *self.world.lock();
        if moment == Some(Moment::Before) {
            life.died_asking = true;
            return Err(end(life, world));
        }
        let root = life.handles[0];
        let result = match (make(&mut world.service, root), moment) {
            (Ok(Outcome::Pending(request)), Some(Moment::Asked)) => {
                world.orphans.insert(request);
                (life.died_asking, life.died_waiting) = (true, true);
                return Err(end(life, world));
            }
            (Ok(Outcome::Pending(request)), _) => {
                World::wait(world, request).and_then(|answer| answered(life, answer))
            }
            (Ok(Outcome::Done(it)), _) => Ok(done(life, it)),
            (Err(error), _) => Err(error),
        };
        if moment != Some(Moment::Answered) {
            return result;
        }
        life.died_asking = true;
        Err(end(life, world))
    }

    fn handle(
        &self,
        make: impl FnOnce(&mut Service<SimPlatform>, HandleId) -> Made<HandleId>,
    ) -> Result<RawHandle, Error> {
        fn opened(life: &mut Life, handle: HandleId) -> RawHandle {
            life.handles.push(handle);
            RawHandle::from_number(handle.0)
        }
        self.request(make, opened, |life, answer| match answer {
            Answer::Handle(handle) => Ok(opened(life, handle)),
            Answer::Payload(_) => Err(Error::BadValue),
        })
    }

    /// The world, for what the daemon is not asked.
    fn world(&self) -> Option<MutexGuard<'_, Inner>> {
        (!self.is_dead()).then(|| self.world.lock())
    }
}

/// The end of a client: its handles are closed in any order, and the hardware does not wait for that.
fn end(life: &mut Life, world: &mut Inner) -> Error {
    life.is_dead = true;
    // Its device is at work all the while.
    world.touch_between(200);
    while let Some(handle) = life.chance.take(&mut life.handles) {
        world.service.close(handle);
        match life.chance.below(6) {
            0 => world.poll(),
            1 => world.touch(),
            2 => world.pass(1 + life.chance.below(20_000) as u64),
            _ => {}
        }
    }
    Error::DaemonGone
}

// SAFETY: handles are the service's, which has just opened them for this client alone. Memory is a run's, which stays until
// its buffer's last handle is closed; a client that has died is forgotten with everything that it has mapped.
unsafe impl Transport for Client {
    fn open(&self, path: &str) -> Result<RawHandle, Error> {
        self.handle(|service, root| service.open(root, path, ROOT))
    }

    unsafe fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        self.handle(|service, _| service.derive(HandleId(handle.number()), request))
    }

    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        let mut own = payload.to_vec();
        let (answer, length) = self.request(
            |service, _| {
                let outcome = service.call(HandleId(handle.number()), opcode as u64, &mut own)?;
                Ok(match outcome {
                    Outcome::Done(length) => Outcome::Done((own, length)),
                    Outcome::Pending(request) => Outcome::Pending(request),
                })
            },
            |_, answer| answer,
            |_, answer| match answer {
                Answer::Payload(answer) => {
                    let length = answer.len();
                    Ok((answer, length))
                }
                Answer::Handle(_) => Err(Error::BadValue),
            },
        )?;
        let length_of_all = answer.len().min(payload.len());
        payload[..length_of_all].copy_from_slice(&answer[..length_of_all]);
        Ok(length)
    }

    unsafe fn read(&self, handle: RawHandle, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        let world = self.world().ok_or(Error::DaemonGone)?;
        world.service.read(HandleId(handle.number()), offset, out)
    }

    unsafe fn map(
        &self,
        handle: RawHandle,
        bytes: usize,
        writable: bool,
    ) -> Result<Mapping, Error> {
        self.request(
            |service, _| {
                let grant = service.grant(HandleId(handle.number()), 0, bytes as u64, writable)?;
                let memory = service.platform().run_memory(grant.run).ok_or(Error::BadAddress)?;
                Ok(Outcome::Done(Mapping { memory, length: bytes }))
            },
            |_, mapping| mapping,
            |_, _| Err(Error::BadValue),
        )
    }

    fn place(&self, supply: &Supply) -> Result<u64, Error> {
        Ok(supply.memory.addr().get() as u64)
    }

    unsafe fn supply(&self, handle: RawHandle, supply: &Supply) -> Result<(), NotSupplied> {
        let handle = HandleId(handle.number());
        let given = self.request(
            |service, _| {
                let bytes = service.awaited(handle)?.bytes;
                // SAFETY: the driver gives this memory away until it is registered no more.
                let run = unsafe { service.platform_mut().adopt(supply.memory, bytes) }?;
                service.supply(handle, run).map_err(|(error, is_out_of_reach)| {
                    assert!(is_out_of_reach, "{error}: no unit is slow here that fails");
                    service.platform_mut().free_run(run);
                    error
                })
            },
            |_, ()| (),
            |_, _| Ok(()),
        );
        given.map_err(NotSupplied::from)
    }

    unsafe fn unmap(&self, _: Mapping) {}

    unsafe fn close(&self, handle: RawHandle) {
        let handle = HandleId(handle.number());
        let close = |service: &mut Service<SimPlatform>, _| {
            service.close(handle);
            Ok(Outcome::Done(()))
        };
        let forget = |life: &mut Life, ()| life.handles.retain(|held| *held != handle);
        let _ = self.request(close, forget, |_, _| Ok(()));
    }
}
