//! What each request does.

use std::os::fd::{AsRawFd, OwnedFd};

use iommu_service::{Grant, HandleId, Outcome, RequestId, Service};
use libdma::Error;
use libdma::transport::packet::{MAX_PAYLOAD, Packet, RequestHeader};
use rustix::fs::{Mode, OFlags, open};

use super::accounts::Holder;
use super::endpoint::{Object, Token};
use super::host::Host;
use super::reply::{NewHandle, Reply};
use super::request::Request;
use super::server::{Server, Waiting};
use super::simulated;
use crate::platform::sealed::is_taken;

/// How many sockets are kept for a handle: as many processes as may have it and map by it.
const MOST_KEPT: usize = 8;

/// What a request led to.
enum Served<'p> {
    /// This answer, where the request's payload was.
    Payload(&'p [u8]),
    /// This part of a text.
    Text(Vec<u8>),
    /// A place for answers that is kept by this number: the client's end.
    Place(u64, OwnedFd),
    /// A new handle, which has been counted.
    Handle(NewHandle, Object),
    /// Memory to be shared.
    Memory(OwnedFd),
    /// An answer later, perhaps with this handle, which has been counted.
    Later(RequestId, Option<NewHandle>),
}

impl<P: Host> Server<P> {
    /// Does what a packet asks. Without a socket for the answer it asks nothing.
    pub(super) fn serve(&mut self, token: Token, packet: Packet<RequestHeader, &mut [u8]>) {
        let Some(endpoint) = self.endpoints.get(&token) else { return };
        let (object, holder) = (endpoint.object, endpoint.holder);
        let number = packet.header.kept.get();
        let Some(reply) = endpoint.reply(number, packet.descriptor) else { return };
        // Counted while it lasts, for it may have to wait.
        if let Err(error) = self.accounts.add_request(holder) {
            return reply.refuse(error);
        }
        let served = Request::parse(&packet.header, packet.payload)
            .and_then(|request| self.act(token, (object, holder), request, packet.memory));
        if let Ok(Served::Later(request, handle)) = served {
            self.waiting.insert(request, Waiting { reply, holder, handle });
            return;
        }
        self.accounts.remove_request(holder);
        match served {
            Ok(Served::Payload(payload)) => reply.payload(payload),
            Ok(Served::Text(text)) => reply.payload(&text),
            Ok(Served::Place(number, theirs)) => reply.place(number, theirs),
            Ok(Served::Handle(new, object)) => self.hand_over(reply, holder, new, object),
            Ok(Served::Memory(memory)) => reply.memory(&memory),
            Ok(Served::Later(..)) => {}
            Err(error) => reply.refuse(error),
        }
    }

    fn act<'p>(
        &mut self,
        token: Token,
        (object, holder): (Object, Holder),
        request: Request<'p>,
        memory: Option<OwnedFd>,
    ) -> Result<Served<'p>, Error> {
        match request {
            Request::Open(path) => {
                self.new_handle(holder, |service| open_path(service, object, path))
            }
            Request::Derive(bytes) => {
                let handle = object.handle().ok_or(Error::WrongHandleKind)?;
                self.new_handle(holder, |service| Ok(named(service.derive(handle, bytes)?)))
            }
            Request::Call { opcode, payload } => self.call(object, opcode, payload),
            Request::Read { offset } => {
                let handle = object.handle().ok_or(Error::WrongHandleKind)?;
                let mut text = vec![0; MAX_PAYLOAD];
                let length = self.service.read(handle, offset, &mut text)?;
                text.truncate(length);
                Ok(Served::Text(text))
            }
            Request::Map { bytes, writable } => {
                let handle = object.handle().ok_or(Error::WrongHandleKind)?;
                let grant = self.service.grant(handle, 0, bytes, writable)?;
                self.memory(grant).map(Served::Memory)
            }
            Request::Supply => {
                let handle = object.handle().ok_or(Error::WrongHandleKind)?;
                self.supply(handle, memory)
            }
            Request::Keep => self.keep(token),
        }
    }

    /// Makes a socket that is kept for the answers to a handle's requests. Those that nobody waits at any more make room.
    fn keep(&mut self, token: Token) -> Result<Served<'static>, Error> {
        let [random @ .., _, _, _, _, _, _, _, _] = self.service.platform_mut().entropy();
        let endpoint = self.endpoints.get_mut(&token).ok_or(Error::BadHandle)?;
        let before = endpoint.kept.len();
        endpoint.kept.retain(|(_, reply)| reply.is_awaited());
        (endpoint.kept.len()..before).for_each(|_| self.accounts.remove_handle(endpoint.holder));
        if endpoint.kept.len() >= MOST_KEPT {
            return Err(Error::QuotaExceeded);
        }
        let (reply, theirs) = Reply::kept().map_err(|_| Error::QuotaExceeded)?;
        self.accounts.add_handle(endpoint.holder)?;
        let number = u64::from_le_bytes(random).max(1);
        endpoint.kept.push((number, reply));
        Ok(Served::Place(number, theirs))
    }

    /// Gives a handle that waits for it the memory that came with the packet.
    fn supply(
        &mut self,
        handle: HandleId,
        sent: Option<OwnedFd>,
    ) -> Result<Served<'static>, Error> {
        let awaited = self.service.awaited(handle)?;
        if awaited.address != 0 {
            return Err(Error::OutOfBuffer);
        }
        let sent = sent.ok_or(Error::NotMemory)?;
        let run = self.service.platform_mut().supplied_run(sent, awaited.bytes)?;
        match self.service.supply(handle, run) {
            Ok(Outcome::Done(())) => Ok(Served::Payload(&[])),
            Ok(Outcome::Pending(request)) => Ok(Served::Later(request, None)),
            Err((error, is_out_of_reach)) => {
                if is_out_of_reach {
                    self.service.platform_mut().free_run(run);
                }
                Err(error)
            }
        }
    }

    /// Makes a handle. What could fail outside the service is done first, so that a request that fails has
    /// changed nothing (rule R7).
    fn new_handle(
        &mut self,
        holder: Holder,
        make: impl FnOnce(&mut Service<P>) -> Result<Outcome<Object>, Error>,
    ) -> Result<Served<'static>, Error> {
        self.accounts.add_handle(holder)?;
        let made = NewHandle::new()
            .map_err(|_| Error::QuotaExceeded)
            .and_then(|new| Ok((new, make(&mut self.service)?)));
        match made {
            Ok((new, Outcome::Done(object))) => Ok(Served::Handle(new, object)),
            Ok((new, Outcome::Pending(request))) => Ok(Served::Later(request, Some(new))),
            Err(error) => {
                self.accounts.remove_handle(holder);
                Err(error)
            }
        }
    }

    fn call<'p>(
        &mut self,
        object: Object,
        opcode: u64,
        payload: &'p mut [u8],
    ) -> Result<Served<'p>, Error> {
        let outcome = match object {
            Object::Root(handle, _) | Object::Handle(handle) => {
                self.service.call(handle, opcode, payload)?
            }
            Object::Simulated(function) => {
                let simulator = self.service.platform_mut().simulator();
                let simulator = simulator.ok_or(Error::BadHandle)?;
                Outcome::Done(simulated::call(simulator, function, opcode, payload)?)
            }
        };
        match outcome {
            Outcome::Done(length) => {
                let payload: &[u8] = payload;
                Ok(Served::Payload(payload.get(..length).unwrap_or(payload)))
            }
            Outcome::Pending(request) => Ok(Served::Later(request, None)),
        }
    }

    /// The descriptor of what was granted. One that may only be read is opened anew, for what a descriptor
    /// allows is settled when it is opened. (Who has all of root's rights can open it anew once more.)
    fn memory(&self, grant: Grant) -> Result<OwnedFd, Error> {
        let memory = self.service.platform().run_fd(grant.run).ok_or(Error::BadHandle)?;
        if grant.writable {
            if is_taken(memory) {
                // Whoever registered it has it mapped already, and nobody else will.
                return Err(Error::NotPermitted);
            }
            return memory.try_clone_to_owned().map_err(|_| Error::QuotaExceeded);
        }
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|_| Error::QuotaExceeded)
    }
}

/// Opens a path: the service's, or a simulated function.
fn open_path<P: Host>(
    service: &mut Service<P>,
    object: Object,
    path: &str,
) -> Result<Outcome<Object>, Error> {
    let Object::Root(root, caller) = object else { return Err(Error::WrongHandleKind) };
    if let (Some(simulator), Some(function)) =
        (service.platform_mut().simulator(), simulated::function(path))
    {
        // As for the device itself.
        if caller.uid != 0 {
            return Err(Error::NotPermitted);
        }
        let function = function?;
        let exists = simulator.machine().functions().any(|known| known == function);
        return if exists {
            Ok(Outcome::Done(Object::Simulated(function)))
        } else {
            Err(Error::NoSuchPath)
        };
    }
    Ok(named(service.open(root, path, caller)?))
}

/// The service's handle as what an endpoint is of.
fn named(outcome: Outcome<HandleId>) -> Outcome<Object> {
    match outcome {
        Outcome::Done(handle) => Outcome::Done(Object::Handle(handle)),
        Outcome::Pending(request) => Outcome::Pending(request),
    }
}
