//! The transport on Linux: a handle is a connected `SOCK_SEQPACKET` socket.

use core::ptr::NonNull;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    socket_with, socketpair,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::kept::{Answers, Kept, Turn};
use super::packet::{
    self, FAULTS_EVENT, Kind, MAX_PAYLOAD, Packet, ReceiveError, ReplyHeader, RequestHeader,
};
use super::{Look, Mapping, NotSupplied, RawHandle, Supply, Transport, patience};
use crate::handle::Handle;
use crate::protocol::call::Opcode;
use crate::protocol::{Error, path};

/// The environment variable that names iommud's socket.
pub const SOCKET_VARIABLE: &str = "IOMMUD_SOCKET";

/// Where iommud's socket is when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/iommud.sock";

/// How many packets that nobody asked for are taken from a device's handle at one go.
const MOST_EVENTS: usize = 64;

/// A connection to iommud.
#[derive(Debug)]
pub struct Socket {
    /// The handle from which paths are opened; `None` in a process that was only given handles.
    root: Option<Mutex<Arc<OwnedFd>>>,
    /// Where iommud listens.
    path: PathBuf,
    /// The sockets to which handles' answers come that are kept.
    kept: Kept,
}

impl Socket {
    /// Connects to the iommud that [`SOCKET_VARIABLE`] names, or else to [`DEFAULT_SOCKET`].
    ///
    /// # Errors
    ///
    /// [`Error::DaemonGone`] if nobody listens there.
    pub fn connect() -> Result<Arc<Self>, Error> {
        Self::connect_to(&usual_place())
    }

    /// Connects to the iommud that listens at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::DaemonGone`] if nobody listens there.
    pub fn connect_to(path: &Path) -> Result<Arc<Self>, Error> {
        let root = Some(Mutex::new(Arc::new(connected(path)?)));
        Ok(Arc::new(Self { root, path: path.to_path_buf(), kept: Kept::default() }))
    }

    /// A transport for handles that another process passed on. It opens no paths but those by which a session is
    /// [resumed](crate::protocol::resume), at the iommud that [`connect`](Self::connect) would find.
    pub fn unconnected() -> Arc<Self> {
        Arc::new(Self { root: None, path: usual_place(), kept: Kept::default() })
    }

    /// The handle whose descriptor another process passed on. Of a descriptor that is nothing of iommud's all requests fail.
    ///
    /// It owns the descriptor, and nobody else does:
    ///
    /// ```compile_fail,E0382
    /// use std::os::fd::OwnedFd;
    ///
    /// use libdma::transport::socket::Socket;
    ///
    /// let descriptor: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    /// let one = Socket::handle(descriptor);
    /// let two = Socket::handle(descriptor);
    /// ```
    pub fn handle(descriptor: OwnedFd) -> Handle {
        let raw = owned(descriptor);
        // SAFETY: it is open, and was its owner's alone. A handle of this transport is a descriptor, whichever.
        unsafe { Handle::from_raw(Self::unconnected(), raw) }
    }

    /// Makes a request whose answer has no payload; what is attached to that.
    fn request(
        &self,
        socket: BorrowedFd<'_>,
        kind: Kind,
        argument: u64,
        payload: &[u8],
    ) -> Result<Option<OwnedFd>, Error> {
        let answer = ask(socket, kind, argument, payload, None)?;
        Ok(take_answer(&answer, &mut [])?.descriptor)
    }

    /// Makes a call that others like it will follow on the handle: its answer comes to a socket that is kept for them. Who finds
    /// that in use has one of their own.
    fn call_again(
        &self,
        socket: BorrowedFd<'_>,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        let handle = socket.as_raw_fd();
        let answers = match self.kept.take(handle) {
            Turn::Kept(answers) => answers,
            Turn::First => match keep(socket) {
                Ok(answers) => answers,
                Err(_) => {
                    self.kept.refuse(handle);
                    return call(socket, opcode, payload);
                }
            },
            Turn::Alone => return call(socket, opcode, payload),
        };
        // What comes later on a socket on which an answer did not come is that one, so that it is not used again.
        let header = header(Kind::Call, opcode as u64, answers.number);
        let answer = send(socket, &header, payload, &[])
            .and_then(|()| receive(&answers.socket, payload))
            .inspect_err(|_| self.kept.forget(handle))?;
        self.kept.put(handle, answers);
        Ok(accepted(answer)?.payload.len())
    }
}

/// Makes a call.
fn call(socket: BorrowedFd<'_>, opcode: Opcode, payload: &mut [u8]) -> Result<usize, Error> {
    let answer = ask(socket, Kind::Call, opcode as u64, payload, None)?;
    Ok(take_answer(&answer, payload)?.payload.len())
}

/// Has iommud keep a socket for answers.
fn keep(socket: BorrowedFd<'_>) -> Result<Answers, Error> {
    let answer = ask(socket, Kind::Keep, 0, &[], None)?;
    let mut number = U64::ZERO;
    let Packet { payload, descriptor, .. } = take_answer(&answer, number.as_mut_bytes())?;
    let is_whole = payload.len() == size_of::<U64>();
    match descriptor {
        Some(socket) if is_whole && number != U64::ZERO => {
            Ok(Answers { socket, number: number.get() })
        }
        _ => Err(Error::BadValue),
    }
}

/// In front of a request that is answered on this kept socket, or if it is zero on one that is attached.
fn header(kind: Kind, argument: u64, kept: u64) -> RequestHeader {
    RequestHeader {
        kind: U32::new(kind as u32),
        reserved: U32::ZERO,
        argument: U64::new(argument),
        kept: U64::new(kept),
    }
}

/// Sends a request, perhaps with a descriptor besides the one for the answer. It comes by the socket that is returned.
fn ask(
    socket: BorrowedFd<'_>,
    kind: Kind,
    argument: u64,
    payload: &[u8],
    memory: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Error> {
    let (mine, its) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(other)?;
    let attached = [its.as_fd(), memory.unwrap_or(its.as_fd())];
    let attached = &attached[..1 + usize::from(memory.is_some())];
    send(socket, &header(kind, argument, 0), payload, attached)?;
    // From here on the only other end is the daemon's, so that its death ends the wait.
    drop(its);
    Ok(mine)
}

fn send(
    socket: BorrowedFd<'_>,
    header: &RequestHeader,
    payload: &[u8],
    attached: &[BorrowedFd<'_>],
) -> Result<(), Error> {
    if payload.len() > MAX_PAYLOAD {
        return Err(Error::TooLarge);
    }
    packet::send(socket, header, payload, attached, SendFlags::empty()).map_err(|errno| match errno
    {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Error::DaemonGone,
        errno => other(errno),
    })
}

/// Waits for an answer, whose payload comes to lie at the start of `place`. What is refused has none.
fn take_answer<'p>(
    answers: &OwnedFd,
    place: &'p mut [u8],
) -> Result<Packet<ReplyHeader, &'p mut [u8]>, Error> {
    accepted(receive(answers, place)?)
}

/// The same, whatever it says.
fn receive<'p>(
    answers: &OwnedFd,
    place: &'p mut [u8],
) -> Result<Packet<ReplyHeader, &'p mut [u8]>, Error> {
    packet::receive_into(answers, place, RecvFlags::empty()).map_err(|error| match error {
        ReceiveError::Closed => Error::DaemonGone,
        ReceiveError::Short(_) | ReceiveError::Long(_) => Error::BadValue,
        ReceiveError::System(errno) => other(errno),
    })
}

/// An answer, if it does not refuse.
fn accepted<P>(reply: Packet<ReplyHeader, P>) -> Result<Packet<ReplyHeader, P>, Error> {
    match reply.header.errno.get() {
        0 => Ok(reply),
        errno => Err(Error::from_errno(u16::try_from(errno).unwrap_or(u16::MAX))),
    }
}

/// Where iommud listens, as far as this process is told.
fn usual_place() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE).unwrap_or_else(|| DEFAULT_SOCKET.into()).into()
}

/// A new connection to the iommud that listens there.
fn connected(path: &Path) -> Result<OwnedFd, Error> {
    let address = SocketAddrUnix::new(path).map_err(other)?;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(other)?;
    connect(&socket, &address).map_err(|errno| match errno {
        Errno::NOENT | Errno::CONNREFUSED => Error::DaemonGone,
        errno => other(errno),
    })?;
    Ok(socket)
}

/// An errno of the operating system's own. It is not one of iommud's answers, even where the number is
/// the same.
fn other(errno: Errno) -> Error {
    Error::Other(errno.raw_os_error() as u16)
}

/// The socket behind a handle, for the length of a call.
///
/// # Safety
///
/// The handle is open and of this transport, for as long as this borrows from it.
unsafe fn borrow(handle: &RawHandle) -> Result<BorrowedFd<'_>, Error> {
    let descriptor = RawFd::try_from(handle.number()).map_err(|_| Error::BadHandle)?;
    // SAFETY: handles of this transport are descriptors, and this one is open, by the caller's promise.
    Ok(unsafe { BorrowedFd::borrow_raw(descriptor) })
}

/// The number of a descriptor that is the caller's to close from now on.
fn owned(descriptor: OwnedFd) -> RawHandle {
    RawHandle::from_number(descriptor.into_raw_fd() as u64)
}

/// The connection that there is now.
fn lock(root: &Mutex<Arc<OwnedFd>>) -> MutexGuard<'_, Arc<OwnedFd>> {
    root.lock().unwrap_or_else(PoisonError::into_inner)
}

fn handle_from(attached: Option<OwnedFd>) -> Result<RawHandle, Error> {
    attached.map(owned).ok_or(Error::BadValue)
}

/// How much of a memory object is to be mapped for a buffer of so many bytes, once it is known that so much stays there.
///
/// The other end need not be iommud: a handle may come from any process, and one that shortened the object under its
/// reader would kill that by `SIGBUS`. So only memory of a memfd is mapped that is sealed against that, and none of a file.
/// (A hole punched in a memfd reads as zeroes. In huge pages it takes a new one at the next access, and where there is
/// none left, that is a `SIGBUS` still: nothing that can be seen here excludes it.)
fn length_that_stays(object: &OwnedFd, bytes: usize) -> Result<usize, Error> {
    // What has no seals is no memfd.
    let seals = fcntl_get_seals(object).map_err(|_| Error::NotMemory)?;
    if !seals.contains(SealFlags::SHRINK) {
        return Err(Error::NotMemory);
    }
    // From here on it can only grow.
    let stat = fstat(object).map_err(other)?;
    // Memory in huge pages is mapped and unmapped by whole ones; the rest of the last belongs to
    // this buffer and to nothing else.
    let page = usize::try_from(stat.st_blksize).unwrap_or(0).max(4096);
    let length = bytes.checked_next_multiple_of(page).ok_or(Error::TooLarge)?;
    match usize::try_from(stat.st_size) {
        _ if length == 0 => Err(Error::ZeroSize),
        Ok(size) if size >= length => Ok(length),
        _ => Err(Error::OutOfBuffer),
    }
}

/// Takes what has made a device's handle readable from it, if anything has.
fn take_event(socket: BorrowedFd<'_>) {
    let mut event = FAULTS_EVENT;
    // Whatever it is, what comes of it shows in the call that follows. iommud sends one at a time; whoever sends more is not
    // listened to for good.
    for _ in 0..MOST_EVENTS {
        if !recv(socket, &mut event, RecvFlags::DONTWAIT).is_ok_and(|(bytes, _)| bytes > 0) {
            return;
        }
    }
}

// SAFETY: a handle is a descriptor that the kernel has just made for this process, and that nobody else was told of. `map`
// returns a fresh mapping by the kernel of a memory object that is as long and sealed against shrinking, as
// `length_that_stays` has seen; it stays until `unmap`, whatever becomes of the socket.
unsafe impl Transport for Socket {
    fn open(&self, path: &str) -> Result<RawHandle, Error> {
        let open = |root: &OwnedFd| self.request(root.as_fd(), Kind::Open, 0, path.as_bytes());
        let Some(root) = &self.root else {
            // What comes of it takes the session's secret.
            let is_own = path::is_resume(path);
            return if is_own {
                handle_from(open(&connected(&self.path)?)?)
            } else {
                Err(Error::NotPermitted)
            };
        };
        let before = lock(root).clone();
        let opened = open(&before).or_else(|error| match error {
            Error::DaemonGone => {
                // There may be another by now.
                let again = Arc::new(connected(&self.path)?);
                *lock(root) = again.clone();
                open(&again)
            }
            error => Err(error),
        });
        handle_from(opened?)
    }

    unsafe fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        // SAFETY: the caller's promise; the borrow ends with this call.
        let socket = unsafe { borrow(&handle) }?;
        handle_from(self.request(socket, Kind::Derive, 0, request)?)
    }

    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        // SAFETY: the caller's promise; the borrow ends with this call.
        let socket = unsafe { borrow(&handle) }?;
        if opcode == Opcode::Events {
            // Before they are read: one that comes later makes the socket readable anew.
            take_event(socket);
        }
        match opcode {
            Opcode::Map | Opcode::Unmap => self.call_again(socket, opcode, payload),
            _ => call(socket, opcode, payload),
        }
    }

    unsafe fn read(&self, handle: RawHandle, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        // SAFETY: the caller's promise; the borrow ends with this call.
        let socket = unsafe { borrow(&handle) }?;
        let answer = ask(socket, Kind::Read, offset, &[], None)?;
        let mut text = vec![0; MAX_PAYLOAD];
        let text = take_answer(&answer, &mut text)?.payload;
        let length = text.len().min(out.len());
        out[..length].copy_from_slice(&text[..length]);
        Ok(length)
    }

    unsafe fn map(
        &self,
        handle: RawHandle,
        bytes: usize,
        writable: bool,
    ) -> Result<Mapping, Error> {
        // SAFETY: the caller's promise; the borrow ends with this call.
        let socket = unsafe { borrow(&handle) }?;
        let object = self.request(socket, Kind::Map, bytes as u64, &[u8::from(writable)])?;
        let object = object.ok_or(Error::BadValue)?;
        let mut protection = ProtFlags::READ;
        protection.set(ProtFlags::WRITE, writable);
        let length = length_that_stays(&object, bytes)?;
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let memory = unsafe {
            mmap(core::ptr::null_mut(), length, protection, MapFlags::SHARED, &object, 0)
        }
        .map_err(|errno| if errno == Errno::NOMEM { Error::OutOfMemory } else { other(errno) })?;
        Ok(Mapping { memory: NonNull::new(memory.cast()).ok_or(Error::BadAddress)?, length })
    }

    fn place(&self, supply: &Supply) -> Result<u64, Error> {
        supply.object.map(|_| 0).ok_or(Error::NotMemory)
    }

    unsafe fn supply(&self, handle: RawHandle, supply: &Supply) -> Result<(), NotSupplied> {
        let number = supply.object.ok_or(Error::NotMemory)?;
        let number = RawFd::try_from(number).map_err(|_| Error::NotMemory)?;
        // SAFETY: by the caller's promise it is open, and stays so for the length of this call.
        let memfd = unsafe { BorrowedFd::borrow_raw(number) };
        // SAFETY: the caller's promise; the borrow ends with this call.
        let socket = unsafe { borrow(&handle) }?;
        // Whatever the answer, the memory is mapped here as it was.
        let answer = ask(socket, Kind::Supply, 0, &[], Some(memfd))?;
        take_answer(&answer, &mut [])?;
        Ok(())
    }

    fn pause(&self, tries: u32) -> bool {
        patience::pause(tries)
    }

    fn watch(&self, look: Look) {
        patience::watch(look);
    }

    unsafe fn unmap(&self, mapping: Mapping) {
        // SAFETY: the caller passes on what `map` returned, and does not use it any more. Unmapping a
        // whole mapping cannot fail.
        let _ = unsafe { munmap(mapping.memory.as_ptr().cast(), mapping.length) };
    }

    unsafe fn close(&self, handle: RawHandle) {
        if let Ok(descriptor) = RawFd::try_from(handle.number()) {
            self.kept.forget(descriptor);
            // SAFETY: by the caller's promise the handle is its own, and is not used any more.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
}
