//! Requests as the kernel says them.

use libdma::Error;
use redox_scheme::scheme::Op;
use redox_scheme::{CallRequest, CallerCtx};
use syscall::data::Stat;
use syscall::flag::{EventFlags, MapFlags, O_DIRECTORY, StdFsCallKind};
use syscall::schemev2::{Opcode, Sqe};

use super::memory::{Copier, MOST};
use super::request::{Client, MapRequest, Request};

/// The errno of what no handle here can do, `EOPNOTSUPP`. To libdma it would mean something else, but libdma
/// does not ask for it.
const NOT_SUPPORTED: Error = Error::Other(95);

/// Who makes a request. Of calls the kernel tells no uid, and what stands in its place is the client's own:
/// so no uid is looked at but at openings and derivations.
pub fn client(caller: &CallerCtx) -> Client {
    let process = u32::try_from(caller.pid).ok();
    let process = process.filter(|process| (1..=i32::MAX as u32).contains(process));
    Client { uid: caller.uid, process }
}

/// The request in full, or itself if it is none that is served.
pub fn operation(call: CallRequest) -> Result<Op, CallRequest> {
    // SAFETY: `Request` is a transparent wrapper of exactly this.
    let raw = unsafe { &*core::ptr::from_ref(call.request()).cast::<Sqe>() };
    if is_served(raw) { call.op() } else { Err(call) }
}

/// Whether it is a kind of request that is served. redox-scheme takes some others apart by assertions that a
/// client can break.
fn is_served(raw: &Sqe) -> bool {
    let [_, address, length, ..] = raw.args;
    match Opcode::try_from_raw(raw.opcode) {
        // The client says where and how long it is.
        Some(Opcode::Fstat) => {
            length == size_of::<Stat>() as u64 && address % align_of::<Stat>() as u64 == 0
        }
        Some(
            Opcode::OpenAt
            | Opcode::Dup
            | Opcode::Read
            | Opcode::Fsize
            | Opcode::Fcntl
            | Opcode::Fevent
            | Opcode::Fpath
            | Opcode::MmapPrep
            | Opcode::Munmap
            | Opcode::Call
            | Opcode::StdFsCall
            | Opcode::Getdents,
        ) => true,
        _ => false,
    }
}

/// What is asked for. What the client may change meanwhile is copied.
///
/// # Errors
///
/// For what no handle here can do, and [`Error::BadAddress`] if the client took its memory away.
pub fn request(op: &mut Op, copier: &mut Copier) -> Result<Request, Error> {
    Ok(match op {
        Op::OpenAt(open) => Request::Open {
            folder: open.fd,
            path: open.path().to_owned(),
            only_folder: open.flags() & O_DIRECTORY != 0,
        },
        Op::Dup(dup) => Request::Derive { handle: dup.fd, bytes: copier.copy_in(dup.buf())? },
        Op::Read(read) => Request::Read {
            handle: read.fd,
            offset: read.offset,
            bytes: read.buf().len().min(MOST),
        },
        Op::MmapPrep { fd, offset, len, flags, .. } => {
            let mapping = MapRequest {
                offset: *offset,
                bytes: *len as u64,
                shared: flags.contains(MapFlags::MAP_SHARED)
                    && !flags.contains(MapFlags::MAP_PRIVATE),
                write: flags.contains(MapFlags::PROT_WRITE),
                execute: flags.contains(MapFlags::PROT_EXEC),
            };
            Request::Map { handle: *fd, mapping }
        }
        // Flags and mappings are the kernel's business.
        Op::Fcntl { fd, .. } | Op::Munmap { fd, .. } => Request::Check(*fd),
        // What all event queues that have the handle want together.
        Op::Fevent { fd, req_flags, .. } => {
            Request::Watch { handle: *fd, wanted: req_flags.contains(EventFlags::EVENT_READ) }
        }
        Op::Fsize { fd, .. } => Request::Length(*fd),
        Op::Fpath(path) => Request::Path(path.fd),
        Op::Fstat(stat) => Request::Stat(stat.fd),
        Op::Getdents(list) => Request::List { handle: list.fd, from: list.opaque_offset },
        Op::Call(call) => {
            let [handle] = *call.fds() else { return Err(NOT_SUPPORTED) };
            let (payload, metadata) = call.payload_and_metadata();
            let opcode = *metadata.first().ok_or(Error::UnknownCall)?;
            Request::Call { handle, opcode, payload: copier.copy_in(payload)? }
        }
        Op::StdFsCall(call) => {
            let [handle] = *call.fds() else { return Err(NOT_SUPPORTED) };
            let [kind, argument, _] = *call.metadata() else { return Err(NOT_SUPPORTED) };
            match u8::try_from(kind).ok().and_then(StdFsCallKind::try_from_raw) {
                Some(StdFsCallKind::Fstat) => Request::Stat(handle),
                Some(StdFsCallKind::Getdents) => Request::List { handle, from: argument },
                Some(StdFsCallKind::Fsync) => Request::Check(handle),
                _ => return Err(NOT_SUPPORTED),
            }
        }
        _ => return Err(NOT_SUPPORTED),
    })
}
