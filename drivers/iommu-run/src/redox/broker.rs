//! The process that serves the driver's namespace.
//!
//! It has the namespace that pcid-spawner has, and answers for it what a driver may have. It reads nothing of a
//! driver's but names, and opens nothing but roots of schemes, and where at iommud the driver's own session is resumed. It
//! keeps nothing of iommud's open, so that a restart of that is none of its business.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io;
use std::process::Command;

use libdma::transport::Transport;
use libdma::transport::scheme::Scheme;
use libredox::Fd;
use libredox::call::{self, call_wo, getns};
use libredox::errno::{EACCES, EBADF, EINVAL, ENODEV, ENOENT, EPERM};
use libredox::flag::{F_SETFD, O_CLOEXEC, O_DIRECTORY};
use redox_scheme::scheme::{SchemeState, SchemeSync};
use redox_scheme::{CallerCtx, OpenResult, RequestKind, Response, SignalBehavior, Socket};
use syscall::error::{Error, Result};
use syscall::schemev2::NewFdFlags;
use syscall::{CallFlags, EOPNOTSUPP, MODE_DIR, MODE_FILE, Stat};

use super::served::operation;
use crate::allowed::{Allowed, QUIET, Verdict};
use crate::options::Options;
use crate::request::{Derived, scheme};

/// The environment variables by which a process of this program learns that it is to serve, and for whom.
const PIPE_VARIABLE: &str = "IOMMU_RUN_PIPE";
const FUNCTION_VARIABLE: &str = "IOMMU_RUN_FUNCTION";

/// What a namespace has besides schemes: the right to make one's own (`bootstrap/src/initnsmgr.rs`).
const CREATION: &str = "/scheme/namespace/scheme-creation-cap";

/// A folder for the driver to work in. No scheme has this name. There is nothing in it but where the session of the driver's
/// device is resumed.
pub(super) const FOLDER: &str = "/scheme/iommu-run";

/// The one thing that is opened below the stand-in for the memory scheme.
const MEMORY_ROOT: &str = "scheme-root";

/// How many refusals are told. A driver that asks on and on is not to fill the log.
const MOST_TOLD: usize = 32;

/// An order to serve.
pub(super) struct Order {
    pipe: usize,
    function: String,
}

impl Order {
    /// The order that this process was started with.
    pub(super) fn find() -> Option<Self> {
        let pipe = env::var(PIPE_VARIABLE).ok()?.parse().ok()?;
        Some(Self { pipe, function: env::var(FUNCTION_VARIABLE).ok()? })
    }

    /// Gives it to a process that is to be started, which inherits the pipe under this number.
    pub(super) fn give(command: &mut Command, pipe: usize, allowed: &Allowed) {
        command.env(PIPE_VARIABLE, pipe.to_string());
        command.env(FUNCTION_VARIABLE, allowed.address().to_string());
    }
}

/// Serves until nobody has the namespace any more, nor anything of this process's that was opened in it: who waits for
/// an answer when a scheme ends waits for good.
pub(super) fn serve(order: Order, options: &Options) -> io::Result<()> {
    let function = order.function.parse();
    let function = function.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let pipe = Fd::new(order.pipe);
    // The flag has the same value among a descriptor's flags as among those of open.
    call::fcntl(pipe.raw(), F_SETFD as usize, O_CLOEXEC as usize)?;
    let socket = Socket::create().map_err(system)?;
    let mut namespace = Namespace {
        all: Fd::new(getns()?),
        allowed: Allowed::new(options, function),
        handles: BTreeMap::from([(0, Handle::Namespace)]),
        next: 1,
        told: BTreeSet::new(),
        passed: None,
    };
    let root = socket.create_this_scheme_fd(0, 0, 0, 0).map_err(system)?;
    // This gives the descriptor away.
    call_wo(pipe.raw(), &root.to_ne_bytes(), CallFlags::FD, &[])?;
    drop(pipe);
    let mut state = SchemeState::new();
    while !namespace.handles.is_empty() {
        let Some(request) = socket.next_request(SignalBehavior::Restart).map_err(system)? else {
            break;
        };
        let response = match request.kind() {
            RequestKind::Call(call) => {
                let caller = call.caller();
                match operation(call) {
                    Ok(operation) => operation.handle_sync(caller, &mut namespace, &mut state),
                    Err(call) => Response::err(EOPNOTSUPP, call),
                }
            }
            RequestKind::SendFd(request) => Response::err(EOPNOTSUPP, request),
            RequestKind::RecvFd(request) => Response::err(EOPNOTSUPP, request),
            RequestKind::OnClose { id } => {
                namespace.handles.remove(&id);
                continue;
            }
            _ => continue,
        };
        let written = socket.write_response(response, SignalBehavior::Restart);
        // redox-scheme closes what went with an answer that was written. Only one to a request that is no more is not; then
        // nobody waits for it, and what was opened for it is closed here.
        if let Some(passed) = namespace.passed.take()
            && written == Ok(true)
        {
            let _ = passed.into_raw();
        }
    }
    Ok(())
}

/// The errors of redox-scheme are the kernel's.
fn system(error: Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno)
}

/// What a descriptor of this process's scheme is.
#[derive(Clone, Copy)]
enum Handle {
    /// The namespace.
    Namespace,
    /// The stand-in for the memory scheme, or its root.
    Memory,
    /// The driver's folder.
    Folder,
}

/// The driver's namespace.
struct Namespace {
    /// The namespace behind it.
    all: Fd,
    allowed: Allowed,
    handles: BTreeMap<usize, Handle>,
    next: usize,
    told: BTreeSet<String>,
    /// What was opened for the answer that is written next.
    passed: Option<Fd>,
}

impl Namespace {
    fn open_path(&mut self, path: &str, flags: usize) -> Result<OpenResult> {
        match path.trim_end_matches('/') {
            CREATION => return self.pass_on(CREATION),
            FOLDER => return Ok(self.new_handle(Handle::Folder)),
            _ => {}
        }
        let name = scheme(path);
        match self.allowed.open(name) {
            Verdict::Open => self.pass_on(&format!("/scheme/{name}")),
            Verdict::StandIn if flags & O_DIRECTORY as usize != 0 => {
                Ok(self.new_handle(Handle::Memory))
            }
            Verdict::StandIn => Err(Error::new(EINVAL)),
            Verdict::Refuse => {
                if !QUIET.contains(&name) {
                    self.tell(format!("/scheme/{name}"));
                }
                // As of a scheme that there is not.
                Err(Error::new(ENODEV))
            }
        }
    }

    /// The root of a scheme.
    fn pass_on(&mut self, path: &str) -> Result<OpenResult> {
        let root = self.all.openat(path, O_DIRECTORY | O_CLOEXEC, 0)?;
        Ok(self.pass(root))
    }

    /// Where a session is resumed, at the iommud that there is now. If that dies meanwhile, somebody else has waited for it.
    fn resume(&mut self, path: &str) -> Result<OpenResult> {
        let opened = Scheme::new().open(path);
        let opened = opened.map_err(|error| Error::new(error.errno().into()))?;
        Ok(self.pass(Fd::new(opened.number() as usize)))
    }

    /// Answers with a descriptor, which is this process's until the answer is written.
    fn pass(&mut self, descriptor: Fd) -> OpenResult {
        OpenResult::OtherScheme { fd: self.passed.insert(descriptor).raw() }
    }

    fn new_handle(&mut self, handle: Handle) -> OpenResult {
        let number = self.next;
        self.next += 1;
        self.handles.insert(number, handle);
        OpenResult::ThisScheme { number, flags: NewFdFlags::empty() }
    }

    fn derive(&mut self, request: &[u8]) -> Result<OpenResult> {
        let request = match Derived::parse(request).ok_or(Error::new(EINVAL))? {
            Derived::Register(name) if self.allowed.serve(name) => Derived::register(name),
            Derived::Register(name) => {
                self.tell(format!("to serve /scheme/{name}"));
                return Err(Error::new(EACCES));
            }
            Derived::Fork(names) => {
                // A namespace of the schemes that the driver has; the stand-in cannot go along.
                let has = |name: &&str| self.allowed.open(name) == Verdict::Open;
                Derived::fork(&names.into_iter().filter(has).collect::<Vec<_>>())
            }
        };
        let derived = Fd::new(self.all.dup(&request)?);
        Ok(self.pass(derived))
    }

    /// Tells what was refused, once.
    fn tell(&mut self, what: String) {
        if self.told.len() < MOST_TOLD && !self.told.contains(&what) {
            eprintln!("iommu-run: refused to the driver of {}: {what}", self.allowed.address());
            self.told.insert(what);
        }
    }
}

impl SchemeSync for Namespace {
    fn openat(
        &mut self,
        directory: usize,
        path: &str,
        flags: usize,
        _: u32,
        _: &CallerCtx,
    ) -> Result<OpenResult> {
        match self.handles.get(&directory) {
            Some(Handle::Namespace) => self.open_path(path, flags),
            Some(Handle::Memory) if path.trim_matches('/') == MEMORY_ROOT => {
                Ok(self.new_handle(Handle::Memory))
            }
            Some(Handle::Memory) => {
                self.tell(format!("/scheme/memory/{}", path.trim_start_matches('/')));
                Err(Error::new(EPERM))
            }
            Some(Handle::Folder) if path.trim_matches('/').is_empty() => {
                Ok(self.new_handle(Handle::Folder))
            }
            Some(Handle::Folder) => {
                let path = self.allowed.resumes(path).ok_or(Error::new(ENOENT))?;
                self.resume(&path)
            }
            None => Err(Error::new(EBADF)),
        }
    }

    fn fstat(&mut self, handle: usize, stat: &mut Stat, _: &CallerCtx) -> Result<()> {
        let mode = match self.handles.get(&handle) {
            Some(Handle::Namespace) => MODE_FILE | 0o600,
            Some(Handle::Memory | Handle::Folder) => MODE_DIR | 0o500,
            None => return Err(Error::new(EBADF)),
        };
        stat.st_mode = mode;
        Ok(())
    }

    fn dup(&mut self, handle: usize, request: &[u8], _: &CallerCtx) -> Result<OpenResult> {
        match self.handles.get(&handle) {
            Some(Handle::Namespace) => self.derive(request),
            _ => Err(Error::new(EINVAL)),
        }
    }

    fn unlinkat(&mut self, _: usize, _: &str, _: usize, _: &CallerCtx) -> Result<()> {
        Err(Error::new(EACCES))
    }
}
