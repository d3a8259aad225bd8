//! The loop, and what comes and goes in it.

use std::collections::BTreeMap;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use iommu_service::{Answer, Caller, Completed, RequestId, Service};
use libdma::Error;
use libdma::transport::packet::{self, MAX_PAYLOAD, ReceiveError};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Resource, geteuid, getrlimit};

use super::accounts::{Accounts, Holder};
use super::endpoint::{Endpoint, Object, Token};
use super::heap::Heap;
use super::host::Host;
use super::listener::Listener;
use super::reply::{NewHandle, Reply};

/// How long to wait for clients when nothing else is to be done. It is also how often the units are asked
/// for faults, for they have no interrupt on this transport's platforms.
const IDLE: Duration = Duration::from_millis(50);

/// How long to wait for clients while hardware is to confirm something.
const SOON: Duration = Duration::from_millis(1);

/// How many events are taken at once.
const EVENTS: usize = 64;

/// A request that waits for hardware.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) reply: Reply,
    pub(super) holder: Holder,
    /// The handle that it is answered with, if it is with one.
    pub(super) handle: Option<NewHandle>,
}

/// The service, with clients.
#[derive(Debug)]
pub struct Server<P> {
    pub(super) service: Service<P>,
    pub(super) endpoints: BTreeMap<Token, Endpoint>,
    pub(super) waiting: BTreeMap<RequestId, Waiting>,
    pub(super) accounts: Accounts,
    listener: Listener,
    /// Whether the listener is asked for clients: not while there is no room for any.
    listening: bool,
    /// When there was last no room.
    last_full: Instant,
    epoll: OwnedFd,
    last_token: u64,
    last_poll: Instant,
    /// Where a packet's payload comes to lie, and the answer to it: memory that need not be made anew, and zeroed, for each.
    place: Vec<u8>,
    heap: Heap,
    /// Whether anything has come since the heap was looked at.
    stirred: bool,
}

impl<P: Host> Server<P> {
    /// Serves the clients of this listener.
    pub fn new(service: Service<P>, listener: Listener) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let mut server = Self {
            service,
            endpoints: BTreeMap::new(),
            waiting: BTreeMap::new(),
            accounts: Accounts::new(usize::try_from(descriptors).unwrap_or(usize::MAX)),
            listener,
            listening: false,
            last_full: Instant::now(),
            epoll,
            last_token: Token::LISTENER.0,
            last_poll: Instant::now(),
            place: vec![0; MAX_PAYLOAD],
            heap: Heap::default(),
            stirred: false,
        };
        server.listen()?;
        Ok(server)
    }

    /// Serves until `stop` is set, which is seen within the time that it idles.
    ///
    /// # Errors
    ///
    /// Only what leaves no way to go on. No client can cause it.
    pub fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.turn()?;
        }
        Ok(())
    }

    /// One turn: what clients want, then what hardware has done.
    fn turn(&mut self) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); EVENTS];
        let is_waiting = self.service.is_waiting();
        let wait = if is_waiting { SOON } else { IDLE };
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let events = match epoll::wait(&self.epoll, &mut space, Some(&wait)) {
            Ok((events, _)) => &*events,
            Err(Errno::INTR) => &[],
            Err(errno) => return Err(errno.into()),
        };
        let is_idle = events.is_empty() && !is_waiting;
        self.stirred |= !is_idle;
        for event in events {
            match Token(event.data.u64()) {
                Token::LISTENER => self.accept()?,
                token => self.receive(token, event.flags),
            }
        }
        if !self.listening && self.last_full.elapsed() >= IDLE {
            self.listen()?;
        }
        if self.service.is_waiting() || self.last_poll.elapsed() >= IDLE {
            self.last_poll = Instant::now();
            self.service.platform_mut().tick();
            for completed in self.service.poll() {
                self.complete(completed);
            }
        }
        self.tell_readable();
        if is_idle && mem::take(&mut self.stirred) {
            self.heap.tidy();
        }
        Ok(())
    }

    /// Makes the handles readable whose clients have faults to read.
    fn tell_readable(&mut self) {
        for readable in self.service.take_readable() {
            let of_it = |endpoint: &&Endpoint| endpoint.object.handle() == Some(readable);
            if let Some(endpoint) = self.endpoints.values().find(of_it) {
                endpoint.tell_readable();
            }
        }
    }

    /// Has the listener asked for clients.
    fn listen(&mut self) -> io::Result<()> {
        let data = epoll::EventData::new_u64(Token::LISTENER.0);
        epoll::add(&self.epoll, &self.listener, data, epoll::EventFlags::IN)?;
        self.listening = true;
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        match self.listener.accept() {
            Ok((socket, uid)) => self.welcome(socket, uid),
            // It has gone again.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            // There is no room, and there will be none before somebody leaves. To be asked at once again would
            // only take the time of those who are here.
            Err(_) => {
                epoll::delete(&self.epoll, &self.listener)?;
                (self.listening, self.last_full) = (false, Instant::now());
            }
        }
        Ok(())
    }

    /// Gives a client that has just connected its handle to the root. One whose allowance is used up finds its
    /// connection closed.
    fn welcome(&mut self, socket: OwnedFd, uid: u32) {
        let token = self.next_token();
        let caller = self.caller(uid);
        let holder =
            if caller.uid == 0 { Holder::Connection(token) } else { Holder::User(caller.uid) };
        if self.accounts.add_handle(holder).is_ok() {
            let object = Object::Root(self.service.root(), caller);
            self.insert(token, Endpoint::new(socket, object, holder));
        }
    }

    /// Who a user is to the service. The machine that is simulated belongs to whoever runs the daemon, so that
    /// user is its root.
    fn caller(&mut self, uid: u32) -> Caller {
        let own = uid == geteuid().as_raw();
        let simulated = self.service.platform_mut().simulator().is_some();
        Caller { uid: if simulated && own { 0 } else { uid } }
    }

    pub(super) fn next_token(&mut self) -> Token {
        self.last_token += 1;
        Token(self.last_token)
    }

    /// Listens to an endpoint. `false` if there is no memory for that; it is closed then.
    pub(super) fn insert(&mut self, token: Token, endpoint: Endpoint) -> bool {
        let data = epoll::EventData::new_u64(token.0);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        let added = epoll::add(&self.epoll, &endpoint.socket, data, flags).is_ok();
        self.endpoints.insert(token, endpoint);
        if !added {
            self.close(token);
        }
        added
    }

    /// Takes one packet. If there are more, epoll says so again, after everybody else had a turn.
    fn receive(&mut self, token: Token, flags: epoll::EventFlags) {
        let Some(endpoint) = self.endpoints.get(&token) else { return };
        let gone = flags
            .intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        let mut place = mem::take(&mut self.place);
        match packet::receive_into(&endpoint.socket, &mut place, RecvFlags::DONTWAIT) {
            Ok(packet) => self.serve(token, packet),
            // An empty packet looks like the end, and is not.
            Err(ReceiveError::Closed) if gone => self.close(token),
            Err(ReceiveError::Closed) => {}
            Err(ReceiveError::Short(reply)) => refuse(reply, Error::ShortPayload),
            Err(ReceiveError::Long(reply)) => refuse(reply, Error::TooLarge),
            Err(ReceiveError::System(Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS)) => {}
            Err(ReceiveError::System(_)) => self.close(token),
        }
        self.place = place;
    }

    /// Ends a handle: its last copy is gone, or nobody will get one.
    pub(super) fn close(&mut self, token: Token) {
        let Some(endpoint) = self.endpoints.remove(&token) else { return };
        (0..=endpoint.kept.len()).for_each(|_| self.accounts.remove_handle(endpoint.holder));
        if let Some(handle) = endpoint.object.handle() {
            self.service.close(handle);
        }
    }

    /// Answers a request that hardware has confirmed, or failed to.
    fn complete(&mut self, completed: Completed) {
        let Completed { request, result } = completed;
        let Some(Waiting { reply, holder, handle }) = self.waiting.remove(&request) else { return };
        self.accounts.remove_request(holder);
        match (result, handle) {
            (Ok(Answer::Handle(id)), Some(new)) => {
                self.hand_over(reply, holder, new, Object::Handle(id));
            }
            (Ok(Answer::Payload(payload)), _) => reply.payload(&payload),
            // Only requests that make one are answered with one.
            (Ok(Answer::Handle(id)), None) => self.service.close(id),
            (Err(error), handle) => {
                if handle.is_some() {
                    self.accounts.remove_handle(holder);
                }
                reply.refuse(error);
            }
        }
    }

    /// Answers with a new handle, which has been counted. If the client does not take it, its end is gone with
    /// the answer, and this end hears of that as of any other.
    pub(super) fn hand_over(
        &mut self,
        reply: Reply,
        holder: Holder,
        new: NewHandle,
        object: Object,
    ) {
        let token = self.next_token();
        let NewHandle { ours: socket, theirs } = new;
        let device = object.handle();
        if !self.insert(token, Endpoint::new(socket, object, holder)) {
            return reply.refuse(Error::OutOfMemory);
        }
        // Nobody has to ask for it: on what is no device, or may not inspect, there is nothing to be told.
        let readable = device.is_some_and(|handle| self.service.watch(handle, true) == Ok(true));
        if readable && let Some(endpoint) = self.endpoints.get(&token) {
            endpoint.tell_readable();
        }
        reply.handle(theirs);
    }
}

/// Answers a packet that is no request, if it brought a socket for that.
fn refuse(socket: Option<OwnedFd>, error: Error) {
    if let Some(reply) = socket.and_then(Reply::new) {
        reply.refuse(error);
    }
}
