//! The loop.

use std::mem;
use std::time::{Duration, Instant};

use event::{EventFlags, RawEventQueue};
use iommu_service::Service;
use libdma::Error;
use libredox::errno::{EAGAIN, EINTR, EOPNOTSUPP, ESRCH};
use libredox::error::{Error as SystemError, Result};
use redox_scheme::scheme::{IntoTag, Op};
use redox_scheme::{
    CallRequest, Request, RequestKind, Response, SendFdRequest, SignalBehavior, Socket,
};

use super::desk::{Answered, Desk, ROOT};
use super::memory::Copier;
use super::received::{self, Received};
use super::timer::Timer;
use super::{Reply, decode, encode};
use crate::daemon::log;
use crate::platform::redox::Redox;

/// How often units are asked for faults that have no interrupt, and how long after the last request or confirmation
/// hardware has its turn once more, for what those have left to do.
const IDLE: Duration = Duration::from_millis(50);

/// How long to wait for clients while hardware is to confirm something.
const SOON: Duration = Duration::from_millis(1);

/// How long to watch hardware before waiting in earnest: it confirms most things sooner than a clock can tell.
const WATCH: Duration = Duration::from_micros(20);

/// How often handles that nobody has are looked for.
const TIDY: Duration = Duration::from_secs(1);

/// How many requests are taken before hardware has its turn.
const TURN: usize = 64;

/// What can end the wait.
#[derive(Clone, Copy)]
enum Wake {
    Requests,
    Fault,
    Idle,
    Soon,
    Tidy,
}

/// Where clients come in, before there is a service behind it: whoever opens something waits.
pub struct Door {
    socket: Socket,
}

impl Door {
    /// A scheme without a name. The kernel takes this thread for the scheme as long as it lives.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::nonblock()? })
    }

    /// A descriptor of the scheme's root, for whoever gives the scheme its name.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn root(&self) -> Result<usize> {
        Ok(self.socket.create_this_scheme_fd(0, ROOT, 0, 0)?)
    }
}

/// A request that is to be answered.
enum Asked {
    /// Most are.
    Op(Op),
    /// Memory was sent to a handle.
    Memory(SendFdRequest),
}

/// The service, with clients.
pub struct Server {
    desk: Desk<Redox, Asked>,
    socket: Socket,
    copier: Copier,
    /// Where requests come to lie.
    requests: Vec<Request>,
    queue: RawEventQueue,
    idle: Timer,
    soon: Timer,
    tidy: Timer,
    /// Whether a unit may have said that it has faults.
    fault_told: bool,
    /// Whether something has happened since hardware last had its turn.
    stirred: bool,
    /// When the requests were taken that are being served.
    now: Instant,
    last_poll: Instant,
    last_tidy: Instant,
}

impl Server {
    /// Serves those who come in at this door.
    ///
    /// # Errors
    ///
    /// Those of the kernel.
    pub fn new(service: Service<Redox>, Door { socket }: Door) -> Result<Self> {
        let queue = RawEventQueue::new()?;
        let (idle, soon, tidy) = (Timer::new(IDLE)?, Timer::new(SOON)?, Timer::new(TIDY)?);
        let subscribe =
            |descriptor, wake| queue.subscribe(descriptor, wake as usize, EventFlags::READ);
        subscribe(socket.inner().raw(), Wake::Requests)?;
        subscribe(idle.descriptor(), Wake::Idle)?;
        subscribe(soon.descriptor(), Wake::Soon)?;
        subscribe(tidy.descriptor(), Wake::Tidy)?;
        if let Some(interrupt) = service.platform().fault_interrupt() {
            subscribe(interrupt.descriptor(), Wake::Fault)?;
        }
        let now = Instant::now();
        let mut desk = Desk::new(service);
        let root = desk.root();
        debug_assert_eq!(root, ROOT);
        let copier = Copier::default();
        Ok(Self {
            desk,
            socket,
            copier,
            requests: Vec::with_capacity(TURN),
            queue,
            idle,
            soon,
            tidy,
            // What came before there was a queue to tell of it.
            fault_told: true,
            stirred: true,
            now,
            last_poll: now,
            last_tidy: now,
        })
    }

    /// Serves until the kernel has no more requests, which is when nobody can name the scheme any more.
    ///
    /// # Errors
    ///
    /// Only what leaves no way to go on. No client can cause it.
    pub fn run(&mut self) -> Result<()> {
        loop {
            let Some(may_be_more) = self.take_requests()? else { return Ok(()) };
            self.look_at_hardware();
            for number in self.desk.take_readable() {
                self.write(encode::readable(number));
            }
            // The kernel tells of requests once, so there is no waiting while there may be more.
            if !may_be_more {
                self.wait()?;
            }
        }
    }

    /// Takes the requests that are there, or as many as there is place for, which is when there may be more. Nothing when there
    /// will be none.
    fn take_requests(&mut self) -> Result<Option<bool>> {
        let mut requests = mem::take(&mut self.requests);
        match self.socket.read_requests(&mut requests, SignalBehavior::Restart) {
            Ok(()) if requests.is_empty() => return Ok(None),
            Ok(()) => self.stirred = true,
            Err(error) if error.errno == EAGAIN => {}
            Err(error) => return Err(error.into()),
        }
        self.now = Instant::now();
        let may_be_more = requests.len() == requests.capacity();
        for request in requests.drain(..) {
            self.receive(request.kind());
        }
        self.requests = requests;
        Ok(Some(may_be_more))
    }

    fn receive(&mut self, request: RequestKind) {
        match request {
            RequestKind::Call(call) => self.serve(call),
            RequestKind::SendFd(request) => self.receive_memory(request),
            RequestKind::RecvFd(request) => self.refuse(request),
            RequestKind::OnClose { id } => self.desk.close(id),
            // The request itself is answered nevertheless, and soon.
            RequestKind::Cancellation(_) => {}
            RequestKind::OnDetach { .. }
            | RequestKind::MsyncMsg
            | RequestKind::MunmapMsg
            | RequestKind::MmapMsg => {}
        }
    }

    fn serve(&mut self, call: CallRequest) {
        let client = decode::client(&call.caller());
        let mut op = match decode::operation(call) {
            Ok(op) => op,
            Err(call) => return self.refuse(call),
        };
        match decode::request(&mut op, &mut self.copier) {
            Ok(request) => {
                if let Some(answered) = self.desk.serve(Asked::Op(op), request, client, self.now) {
                    self.answer(answered);
                }
            }
            Err(error) => self.answer((Asked::Op(op), Err(error))),
        }
    }

    /// Takes what was sent out of the request, whatever it is: the kernel would close it in this thread otherwise, and
    /// whoever sent it may have seen to it that this takes for ever.
    fn receive_memory(&mut self, request: SendFdRequest) {
        let number = request.id();
        let received = Received::take(&request, &self.socket);
        let answered = self.desk.supply(
            Asked::Memory(request),
            number,
            |platform, awaited| {
                let object = received.only().ok_or(Error::NotMemory)?;
                let taken = platform.take_over(object, awaited.address, awaited.bytes);
                taken.map_err(received::refusal)
            },
            |platform, run, awaited| {
                if let Some(object) = received.only() {
                    platform.give_back(run, object, awaited.address);
                }
            },
        );
        if let Some(answered) = answered {
            self.answer(answered);
        }
        received.close_apart();
    }

    fn answer(&mut self, (asked, result): Answered<Asked>) {
        let op = match asked {
            Asked::Op(op) => op,
            Asked::Memory(request) => {
                let result =
                    result.map(|_| 0).map_err(|error| syscall::Error::new(error.errno().into()));
                self.write(Response::new(result, request));
                return;
            }
        };
        let new = match result {
            Ok(Reply::Handle { number, .. }) => Some(number),
            _ => None,
        };
        let platform = self.desk.service().platform();
        let response = encode::response(op, result, platform, &mut self.copier);
        if !self.write(response)
            && let Some(number) = new
        {
            self.desk.close(number);
        }
    }

    /// Answers what no handle here can do.
    fn refuse(&mut self, request: impl IntoTag) {
        self.write(Response::err(EOPNOTSUPP, request));
    }

    /// Writes an answer. `false` if the kernel does not want it.
    fn write(&mut self, response: Response) -> bool {
        match self.socket.write_response(response, SignalBehavior::Restart) {
            Ok(written) => written,
            Err(error) => {
                log::line(format_args!("an answer was not taken: {}", SystemError::from(error)));
                false
            }
        }
    }

    fn look_at_hardware(&mut self) {
        let now = self.now;
        let interrupts = self.interrupts();
        let waiting = self.desk.is_waiting();
        if interrupts.is_some() || waiting || self.is_due(now) {
            self.last_poll = now;
            self.stirred = waiting;
            let since = Instant::now();
            loop {
                for answered in self.desk.poll(now) {
                    self.answer(answered);
                }
                if !self.desk.is_waiting() || since.elapsed() >= WATCH {
                    break;
                }
            }
        }
        // Only now: what it was about has been dealt with.
        if let Some(count) = interrupts {
            self.acknowledge(count);
        }
        if self.desk.may_lose() && now.duration_since(self.last_tidy) >= TIDY {
            self.last_tidy = now;
            self.desk.close_lost(now, has_ended);
        }
    }

    /// Whether hardware has its turn though nothing says that it has something to say.
    fn is_due(&self, now: Instant) -> bool {
        self.is_restless() && now.duration_since(self.last_poll) >= IDLE
    }

    fn is_restless(&self) -> bool {
        self.stirred || self.desk.service().wants_polling()
    }

    /// The count of the interrupts by which units have said that they have faults, if there are new ones.
    fn interrupts(&mut self) -> Option<usize> {
        if !mem::take(&mut self.fault_told) {
            return None;
        }
        let interrupt = self.desk.service().platform().fault_interrupt()?;
        match interrupt.count() {
            Ok(count) => count,
            Err(error) => {
                log::line(format_args!("the fault interrupt cannot be read: {error}"));
                // It may have been one, and no other comes before the faults are read.
                self.stirred = true;
                None
            }
        }
    }

    fn acknowledge(&mut self, count: usize) {
        let service = self.desk.service_mut();
        let Some(interrupt) = service.platform_mut().fault_interrupt_mut() else { return };
        match interrupt.acknowledge(count) {
            Ok(new) => service.count_fault_interrupts(new),
            Err(error) => {
                log::line(format_args!("the fault interrupt cannot be acknowledged: {error}"));
            }
        }
    }

    /// Waits for clients and interrupts, or until hardware has its turn again: with nothing to do, for ever.
    fn wait(&mut self) -> Result<()> {
        if self.is_restless() {
            self.idle.set()?;
        }
        if self.desk.is_waiting() {
            self.soon.set()?;
        }
        if self.desk.may_lose() {
            self.tidy.set()?;
        }
        match self.queue.next_event() {
            Ok(event) => self.woken(event.user_data),
            Err(error) if error.errno() == EINTR => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn woken(&mut self, by: usize) {
        match by {
            by if by == Wake::Fault as usize => self.fault_told = true,
            by if by == Wake::Idle as usize => self.idle.went_off(),
            by if by == Wake::Soon as usize => self.soon.went_off(),
            by if by == Wake::Tidy as usize => self.tidy.went_off(),
            _ => {}
        }
    }
}

/// Whether a process has ended, and its parent knows. Signal 0 is not sent, only looked at.
fn has_ended(process: u32) -> bool {
    let answer = libredox::call::kill(process as usize, 0);
    answer.is_err_and(|error| error.errno() == ESRCH)
}
