//! The transport on Redox: a handle is a descriptor of the `iommu` scheme.

use std::string::String;
use std::sync::Arc;

use libredox::Fd;
use libredox::call;
use libredox::flag::{O_CLOEXEC, O_RDWR};
use syscall::{CallFlags, F_GETFL};

use super::object::error;
use super::{Look, Mapping, NotSupplied, RawHandle, Supply, Transport, errand, patience, shown};
use crate::handle::{Handle, RESUME_VARIABLE};
use crate::protocol::call::Opcode;
use crate::protocol::{Error, path};
use crate::register::moved;

/// The `iommu` scheme of this process's namespace.
#[derive(Debug)]
pub struct Scheme {
    /// The folder in which sessions are resumed, where this process was left one. It is the process's, and never closed.
    folder: Option<usize>,
}

impl Scheme {
    /// The transport. Nothing is opened yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { folder: None })
    }

    /// The handle whose descriptor another process passed on. Of a descriptor that is nothing of iommud's all requests fail.
    ///
    /// It owns the descriptor, and nobody else does. libredox's [`Fd`] can be made of any number by safe code: it is taken at
    /// its word, as whoever made it promised.
    pub fn handle(descriptor: Fd) -> Handle {
        Self { folder: None }.own(descriptor)
    }

    /// The same of a handle that this process was started with, and with where its session is resumed.
    pub(crate) fn inherited(descriptor: Fd) -> Handle {
        let folder = std::env::var(RESUME_VARIABLE).ok();
        Self { folder: folder.and_then(|number| number.parse().ok()) }.own(descriptor)
    }

    fn own(self, descriptor: Fd) -> Handle {
        let raw = owned(descriptor.into_raw());
        // SAFETY: it is open, and was its owner's alone. A handle of this transport is a descriptor, whichever.
        unsafe { Handle::from_raw(Arc::new(self), raw) }
    }
}

/// Whether a descriptor is of a scheme that says to be iommud's. No scheme of the kernel's does.
pub(crate) fn is_of_scheme(descriptor: usize) -> Result<bool, Error> {
    let mut path = [0; 64];
    let says = |path: &[u8]| {
        let path = core::str::from_utf8(path).ok()?;
        path.strip_prefix("/scheme/")?.strip_prefix(path::SCHEME)?.strip_prefix('/').map(drop)
    };
    let length = call::fpath(descriptor, &mut path).map_err(error)?;
    Ok(path.get(..length).and_then(says).is_some())
}

/// The number of a descriptor that is the caller's to close from now on.
fn owned(descriptor: usize) -> RawHandle {
    RawHandle::from_number(descriptor as u64)
}

fn descriptor(handle: RawHandle) -> usize {
    handle.number() as usize
}

/// Whether a call is made by somebody who can be given up: hardware may have to confirm before it is answered, or other
/// threads wait for who makes it, as for who resumes the session or looks whether that has to be. All others iommud
/// answers at once.
const fn is_sent(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::Map
            | Opcode::Unmap
            | Opcode::Enter
            | Opcode::Leave
            | Opcode::Revoke
            | Opcode::Reset
            | Opcode::DeviceInfo
            | Opcode::Hello
            | Opcode::Resume
            | Opcode::EndResume
            | Opcode::Next
    )
}

/// What looks whether the iommud of a descriptor is there: what was opened at one that has died answers so at once.
pub(super) fn is_there(descriptor: usize) -> impl Fn() -> bool + Clone + Send + 'static {
    move || match call::fcntl(descriptor, F_GETFL, 0) {
        Ok(_) => true,
        Err(refused) => error(refused) != Error::DaemonGone,
    }
}

// SAFETY: a handle is a descriptor that the kernel has just given to this process, and that nobody else was told of. `map`
// returns a fresh mapping of pages that a scheme's daemon lent for this buffer. Whoever that is, the kernel has taken a
// reference to each frame of its own and entered all before it returns, as was asked for, and looks at the daemon's memory
// no more (663e6641, `context/memory.rs`, `Grant::borrow_fmap`): what is cut short or unmapped there later is mapped here still,
// until `unmap`. From there it comes here through objects that are this module's alone, all of it entered, too (`shown`).
// Of memory in the kernel's own schemes it is looked up lazily what somebody else's object holds, and it is not mapped.
unsafe impl Transport for Scheme {
    fn open(&self, path: &str) -> Result<RawHandle, Error> {
        if let Some(folder) = self.folder.filter(|_| path::is_resume(path)) {
            let path = String::from(path);
            let open = move || call::openat(folder, path, O_RDWR | O_CLOEXEC, 0);
            let opened = errand::run(open, is_there(folder));
            return opened.ok_or(Error::DaemonGone)?.map(owned).map_err(error);
        }
        let path: String = format!("/scheme/{}/{path}", path::SCHEME);
        // Nothing tells who opens it whether iommud is there, but its name.
        let is_there = || call::open(format!("/scheme/{}", path::SCHEME), O_RDWR | O_CLOEXEC, 0);
        let is_there = move || match is_there() {
            Ok(root) => {
                let _ = call::close(root);
                true
            }
            Err(refused) => error(refused) != Error::DaemonGone,
        };
        let opened = errand::run(move || call::open(path, O_RDWR | O_CLOEXEC, 0), is_there);
        opened.ok_or(Error::DaemonGone)?.map(owned).map_err(error)
    }

    unsafe fn derive(&self, handle: RawHandle, request: &[u8]) -> Result<RawHandle, Error> {
        let (from, request) = (descriptor(handle), request.to_vec());
        let derived = errand::run(move || call::dup(from, &request), is_there(from));
        let derived = derived.ok_or(Error::DaemonGone)?.map_err(error)?;
        // iommud takes a handle for lost that was never used when its process has ended, and this one may be
        // meant for another process. Any request is a use.
        let _ = call::fcntl(derived, F_GETFL, 0);
        Ok(owned(derived))
    }

    unsafe fn call(
        &self,
        handle: RawHandle,
        opcode: Opcode,
        payload: &mut [u8],
    ) -> Result<usize, Error> {
        // iommud writes into the memory that it is lent, and may die of that: what fails is to leave the payload as it was.
        let (descriptor, mut answer) = (descriptor(handle), payload.to_vec());
        let call = move || {
            let metadata = [opcode as u64];
            let length = call::call_rw(descriptor, &mut answer, CallFlags::empty(), &metadata);
            length.map(|length| (length, answer))
        };
        let answered = match is_sent(opcode) {
            true => errand::run(call, is_there(descriptor)).ok_or(Error::DaemonGone)?,
            false => call(),
        };
        let (length, answer) = answered.map_err(error)?;
        payload.copy_from_slice(&answer);
        Ok(length)
    }

    unsafe fn read(&self, handle: RawHandle, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        // The kernel counts the offset itself, and there is no other way to say it through relibc: text nodes
        // are only ever read from start to end.
        let _ = offset;
        call::read(descriptor(handle), out).map_err(error)
    }

    unsafe fn map(
        &self,
        handle: RawHandle,
        bytes: usize,
        writable: bool,
    ) -> Result<Mapping, Error> {
        if !is_of_scheme(descriptor(handle))? {
            return Err(Error::NotMemory);
        }
        let memory = shown::map(descriptor(handle), bytes, writable)?;
        Ok(Mapping { memory, length: bytes })
    }

    fn place(&self, supply: &Supply) -> Result<u64, Error> {
        match supply.object {
            None => Ok(moved::in_object(supply.memory.addr().get(), supply.bytes)? as u64),
            Some(_) => Err(Error::NotMemory),
        }
    }

    unsafe fn supply(&self, handle: RawHandle, supply: &Supply) -> Result<(), NotSupplied> {
        // SAFETY: as the caller promises.
        unsafe { moved::supply(descriptor(handle), supply.memory, supply.bytes) }
    }

    fn pause(&self, tries: u32) -> bool {
        patience::pause(tries)
    }

    fn watch(&self, look: Look) {
        patience::watch(look);
    }

    unsafe fn unmap(&self, mapping: Mapping) {
        // SAFETY: the caller passes on what `map` returned, or was supplied, and does not use it any more.
        unsafe { shown::unmap(mapping.memory, mapping.length) };
    }

    unsafe fn close(&self, handle: RawHandle) {
        // A descriptor that this process owns can always be closed.
        let _ = call::close(descriptor(handle));
    }
}
