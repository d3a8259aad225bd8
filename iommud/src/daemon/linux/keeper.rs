//! Watches over the process that serves.

use std::env;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getpid, getrlimit, pidfd_open, pidfd_send_signal,
    setrlimit,
};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::error::Error;
use super::inherited;
use super::store::{Heard, Memory, Store, pair};
use crate::daemon::hand_over::{HAND_OVER_VARIABLE, HandOver, NotByKeeper, Start};
use crate::daemon::keeping::{End, Next};
use crate::daemon::log;
use crate::transport::socket::Listener;

/// The program that this process runs, whatever has become of its file.
const MYSELF: &str = "/proc/self/exe";

/// The environment variable of a keeper that a process starts which serves: the way to it, the socket to which clients
/// connect, and the process, as a [`HandOver`].
pub const SERVER_VARIABLE: &str = "IOMMUD_SERVER";

/// A process that serves.
struct Serving {
    /// `None` for one that this process has not started.
    process: Option<Child>,
    /// Ready to read when the process has ended.
    end: OwnedFd,
    /// The way to it.
    socket: OwnedFd,
}

/// That this process was told to end.
struct Signals {
    pipe: UnixStream,
    told: bool,
}

/// Starts the process that serves at this socket, and the next one when it dies. The exit code to end with.
///
/// # Errors
///
/// Whatever keeps the first one from being started.
pub fn keep(listener: &Listener) -> Result<u8, Error> {
    raise_descriptor_limit(0);
    let signals = Signals::catch()?;
    let mut store = Store::default();
    let server = Serving::start(Start::Hand, listener, &mut store).map_err(Error::Spawn)?;
    keep_on(server, listener, store, signals)
}

/// Watches over a process that serves already, whose keeper is dead, and that has started this one. The exit code to end with.
///
/// # Errors
///
/// It was not such a process.
pub fn take_over(left: &HandOver, path: &Path) -> Result<u8, Error> {
    let &[socket, listener, end] = &left.descriptors[..] else { return Err(NotByKeeper.into()) };
    let (socket, listener, end) = (inherited(socket)?, inherited(listener)?, inherited(end)?);
    raise_descriptor_limit(0);
    let signals = Signals::catch()?;
    let deaths = if let Start::Again(deaths) = left.start { deaths } else { 0 };
    let store = Store::of_another(deaths);
    let server = Serving { process: None, end, socket };
    keep_on(server, &Listener::left(listener, path), store, signals)
}

/// Starts a keeper for this process, which serves the clients of this listener: the way to it.
///
/// # Errors
///
/// Those of starting it.
pub fn start_another(listener: BorrowedFd<'_>, start: Start) -> io::Result<(OwnedFd, Child)> {
    let (near, far) = pair()?;
    let myself = pidfd_open(getpid(), PidfdFlags::empty())?;
    let descriptors = [far.as_fd(), listener, myself.as_fd()];
    let numbers = descriptors.map(|it| it.as_raw_fd() as usize).to_vec();
    let mut command = this_program();
    let left = HandOver { descriptors: numbers, start };
    command.env(SERVER_VARIABLE, left.to_string()).env_remove(HAND_OVER_VARIABLE);
    Ok((near, spawn(&mut command, &descriptors)?))
}

fn keep_on(
    mut server: Serving,
    listener: &Listener,
    mut store: Store,
    mut signals: Signals,
) -> Result<u8, Error> {
    loop {
        let began = Instant::now();
        let how = server.watch(&mut store, &mut signals)?;
        if signals.told {
            return Ok(match how {
                End::Code(code) => code,
                End::Crash => 1,
            });
        }
        let mut next = store.keeping.ended(how, began.elapsed());
        server = loop {
            let pause = match next {
                Next::End(code) => return Ok(code),
                Next::Again(pause) => pause,
            };
            log::line(store.keeping.told(how, pause));
            if signals.wait(pause)? {
                return Ok(0);
            }
            let start = store.next_start();
            match Serving::start(start, listener, &mut store) {
                Ok(server) => break server,
                Err(error) => log::line(Error::Spawn(error)),
            }
            next = store.keeping.ended(End::Crash, Duration::ZERO);
        };
    }
}

impl Serving {
    fn start(start: Start, listener: &Listener, store: &mut Store) -> io::Result<Self> {
        let (socket, theirs) = store.pair()?;
        let listening = listener.as_fd();
        let descriptors = [theirs.as_raw_fd(), listening.as_raw_fd()].map(|it| it as usize);
        let left = HandOver { descriptors: descriptors.to_vec(), start };
        let mut command = this_program();
        command.env(HAND_OVER_VARIABLE, left.to_string()).env_remove(SERVER_VARIABLE);
        let mut process = spawn(&mut command, &[theirs.as_fd(), listening])?;
        match pidfd_open(Pid::from_child(&process), PidfdFlags::empty()) {
            Ok(end) => {
                store.keeping.started(Memory::default());
                Ok(Self { process: Some(process), end, socket })
            }
            Err(errno) => {
                // Two that serve would undo each other's work.
                process.kill()?;
                process.wait()?;
                Err(errno.into())
            }
        }
    }

    /// Waits until it ends, hears what it has to say meanwhile, and passes on that it is to end.
    fn watch(&mut self, store: &mut Store, signals: &mut Signals) -> Result<End, Error> {
        let mut hears = true;
        loop {
            let socket = if hears { self.socket.as_fd() } else { self.end.as_fd() };
            let ready = wait_for([self.end.as_fd(), signals.pipe.as_fd(), socket], None)?;
            if ready[1] && signals.take() {
                // Dead already, it needs not be told.
                let _ = pidfd_send_signal(&self.end, Signal::TERM);
            }
            if ready[0] {
                break;
            }
            if ready[2] && hears {
                hears = store.hear(&self.socket) != Heard::NothingAnyMore;
            }
        }
        // What it said last.
        while store.hear(&self.socket) == Heard::Something {}
        signals.take();
        let Some(process) = &mut self.process else {
            // Only its parent is told how it ended.
            return Ok(if signals.told { End::Code(0) } else { End::Crash });
        };
        let status = process.wait().map_err(Error::Spawn)?;
        Ok(match status.code().map(u8::try_from) {
            Some(Ok(code)) => End::Code(code),
            _ => End::Crash,
        })
    }
}

impl Signals {
    fn catch() -> Result<Self, Error> {
        let (pipe, write) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT] {
            pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self { pipe, told: false })
    }

    /// Takes what there is: whether it was told to end.
    fn take(&mut self) -> bool {
        let mut bytes = [0; 16];
        let told = matches!(rustix::io::read(&self.pipe, &mut bytes), Ok(1..));
        self.told |= told;
        told
    }

    /// Waits that long, or until it is told to end, and whether it is.
    fn wait(&mut self, pause: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + pause;
        while !self.take() {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            wait_for([self.pipe.as_fd()], Some(rest))?;
        }
        Ok(self.told)
    }
}

/// Waits until one of these can be read, or is closed at its other end: which.
fn wait_for<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    pause: Option<Duration>,
) -> Result<[bool; N], Error> {
    let mut asked = descriptors.map(|it| PollFd::from_borrowed_fd(it, PollFlags::IN));
    let pause = pause.map(|it| Timespec {
        tv_sec: i64::try_from(it.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: it.subsec_nanos().into(),
    });
    match poll(&mut asked, pause.as_ref()) {
        Ok(_) => Ok(asked.map(|it| !it.revents().is_empty())),
        Err(Errno::INTR) => Ok([false; N]),
        Err(errno) => Err(Error::Serve(errno.into())),
    }
}

/// The command that starts this program once more, with the same arguments.
fn this_program() -> Command {
    // By its own name, which people know it by, unless there is no such file any more.
    let program = env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(program.unwrap_or_else(|| MYSELF.into()));
    let mut words = env::args_os();
    command.arg0(words.next().unwrap_or_else(|| "iommud".into())).args(words);
    command
}

/// Starts a program that gets these descriptors. This process has one thread, so that no other program gets them
/// meanwhile.
fn spawn(command: &mut Command, descriptors: &[BorrowedFd<'_>]) -> io::Result<Child> {
    for descriptor in descriptors {
        fcntl_setfd(descriptor, FdFlags::empty())?;
    }
    let child = command.spawn();
    for descriptor in descriptors {
        fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    child
}

/// How many descriptors fewer the process that serves may have than its keeper.
pub(super) const FEWER: u64 = 64;

/// Takes as many descriptors as the system lets it, but for some: each memory costs one, here and in the process that serves.
/// That one runs out first, and takes no more memory then: what its keeper has no descriptor left for is nobody's when it dies.
pub(super) fn raise_descriptor_limit(but: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let most = maximum.map(|maximum| maximum.saturating_sub(but));
    // Where that is refused, there are fewer handles.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum });
}
