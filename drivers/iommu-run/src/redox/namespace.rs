//! The driver's namespace, as the driver's process has it made.

use std::env;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;

use libredox::call::{self, call_ro, close, setns};
use libredox::flag::{O_CLOEXEC, O_DIRECTORY};
use syscall::CallFlags;

use super::broker::{FOLDER, Order};
use super::descriptors;
use crate::allowed::Allowed;
use crate::error::Error;

/// Starts a process that serves a namespace as allowed, and leaves the present one for it.
pub(super) fn enter(allowed: &Allowed) -> Result<(), Error> {
    let namespace = start_broker(allowed).map_err(Error::Namespace)?;
    let namespace = namespace.ok_or(Error::NamespaceEnded)?;
    let before = setns(namespace).map_err(|error| Error::Namespace(error.into()))?;
    // Whoever finds its number could open everything from it.
    close(before).map_err(|error| Error::Namespace(error.into()))?;
    // Likewise the folder in which pcid-spawner works, which may be one of a file system.
    env::set_current_dir(FOLDER).map_err(Error::Namespace)
}

/// Opens the driver's folder, for whoever has the namespace: from there it resumes its session, also when it has left that.
pub(super) fn folder() -> io::Result<usize> {
    Ok(call::open(FOLDER, O_DIRECTORY | O_CLOEXEC, 0)?)
}

/// Starts this program again, with the same words, to serve; gives the namespace, or nothing if the process ended.
fn start_broker(allowed: &Allowed) -> io::Result<Option<usize>> {
    let (reader, writer) = io::pipe()?;
    descriptors::leave_open(writer.as_raw_fd() as usize)?;
    let mut words = env::args_os();
    let name = words.next();
    let program = env::current_exe().or_else(|error| name.map(Into::into).ok_or(error))?;
    let mut command = Command::new(program);
    command.args(words);
    Order::give(&mut command, writer.as_raw_fd() as usize, allowed);
    command.spawn()?;
    drop(writer);
    // The kernel chooses the number if it is not told one, which this says.
    let mut namespace = usize::MAX.to_ne_bytes();
    loop {
        let flags = CallFlags::FD | CallFlags::FD_UPPER;
        match call_ro(reader.as_raw_fd() as usize, &mut namespace, flags, &[]) {
            Err(error) if error.is_interrupt() => {}
            Err(error) => return Err(error.into()),
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(usize::from_ne_bytes(namespace))),
        }
    }
}
