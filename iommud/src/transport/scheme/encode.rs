//! Answers as the kernel wants them.

use core::mem::offset_of;

use dma_types::PAGE_SIZE;
use libdma::Error;
use redox_scheme::scheme::Op;
use redox_scheme::{OpenResult, Response};
use syscall::data::Stat;
use syscall::dirent::{DirEntry, DirentBuf, DirentHeader, DirentKind};
use syscall::flag::{EventFlags, MODE_CHR, MODE_DIR, MODE_FILE};
use syscall::schemev2::NewFdFlags;

use super::folder::Folder;
use super::memory::{Copier, MOST};
use super::request::{Reply, Shape};
use crate::platform::redox::Redox;

/// What is told of a handle with something to be read.
const READABLE: usize = EventFlags::EVENT_READ.bits();

/// That a handle has become readable.
pub fn readable(number: usize) -> Response {
    Response::post_fevent(number, READABLE)
}

/// The answer to a request. It has to be written, for until then the client waits.
pub fn response(
    mut op: Op,
    result: Result<Reply, Error>,
    platform: &Redox,
    copier: &mut Copier,
) -> Response {
    let result = result.and_then(|reply| match reply {
        Reply::Handle { number, positioned } => Ok(Status::Handle { number, positioned }),
        Reply::Bytes(bytes) => copy_out(&mut op, &bytes, copier).map(Status::Number),
        Reply::Length(length) => {
            usize::try_from(length).map(Status::Number).map_err(|_| Error::TooLarge)
        }
        Reply::Memory { run, offset } => {
            let start = platform.run_address(run).ok_or(Error::BadHandle)?;
            let address = start.get().checked_add(offset).ok_or(Error::Overflow)?;
            usize::try_from(address).map(Status::Number).map_err(|_| Error::Overflow)
        }
        Reply::Shape(shape, bytes) => {
            let stat = stat(shape, bytes);
            let copied = copy_out(&mut op, &stat, copier)?;
            if copied == stat.len() { Ok(Status::Number(0)) } else { Err(Error::ShortPayload) }
        }
        Reply::Entries { folder, from } => {
            let room = memory(&mut op).map_or(0, |lent| lent.len()).min(MOST);
            let entries = entries(folder, from, room)?;
            copy_out(&mut op, &entries, copier).map(Status::Number)
        }
        Reply::Readable(readable) => Ok(Status::Number(if readable { READABLE } else { 0 })),
        Reply::Done => Ok(Status::Number(0)),
    });
    match result {
        Ok(Status::Number(number)) => Response::ok(number, op),
        Ok(Status::Handle { number, positioned }) => {
            let flags = if positioned { NewFdFlags::POSITIONED } else { NewFdFlags::empty() };
            Response::open_dup_like(Ok(OpenResult::ThisScheme { number, flags }), op)
        }
        Err(error) => Response::err(error.errno().into(), op),
    }
}

enum Status {
    Number(usize),
    Handle { number: usize, positioned: bool },
}

/// The memory that came with a request, for the answer.
fn memory(op: &mut Op) -> Option<&mut [u8]> {
    match op {
        Op::Read(read) => Some(read.buf()),
        Op::Fpath(path) => Some(path.buf()),
        Op::Fstat(stat) => Some(stat.buf()),
        Op::Getdents(list) => Some(list.raw_buf()),
        Op::Call(call) | Op::StdFsCall(call) => Some(call.payload()),
        _ => None,
    }
}

fn copy_out(op: &mut Op, bytes: &[u8], copier: &mut Copier) -> Result<usize, Error> {
    memory(op).map_or(Ok(0), |lent| copier.copy_out(bytes, lent))
}

/// What `stat` says. Everything is root's, and never older than the daemon.
fn stat(shape: Shape, bytes: u64) -> [u8; size_of::<Stat>()] {
    let mode = match shape {
        Shape::Folder => MODE_DIR | 0o555,
        Shape::Text => MODE_FILE | 0o444,
        Shape::Object => MODE_CHR | 0o600,
    };
    let mut stat = [0; size_of::<Stat>()];
    let mut put = |offset: usize, value: &[u8]| {
        if let Some(field) = stat.get_mut(offset..offset + value.len()) {
            field.copy_from_slice(value);
        }
    };
    put(offset_of!(Stat, st_mode), &mode.to_ne_bytes());
    put(offset_of!(Stat, st_nlink), &1u32.to_ne_bytes());
    put(offset_of!(Stat, st_size), &bytes.to_ne_bytes());
    put(offset_of!(Stat, st_blksize), &(PAGE_SIZE as u32).to_ne_bytes());
    stat
}

/// As many of a folder's entries as there is room for; no bytes at its end.
fn entries(folder: Folder, from: u64, room: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; room];
    // No kernel knows a longer head.
    let head = size_of::<DirentHeader>() as u16;
    let mut list = DirentBuf::new(bytes.as_mut_slice(), head).ok_or(Error::BadValue)?;
    let mut all = true;
    for (next, entry) in Reply::entries(folder, from) {
        let kind = if entry.is_folder { DirentKind::Directory } else { DirentKind::Regular };
        let entry = DirEntry { inode: next, next_opaque_id: next, name: entry.name, kind };
        if list.entry(entry).is_err() {
            all = false;
            break;
        }
    }
    let length = list.finalize();
    bytes.truncate(length);
    // Nothing would look like the end; `EINVAL` is what others say when there is no room for a single entry.
    if length == 0 && !all { Err(Error::BadAlignment) } else { Ok(bytes) }
}
