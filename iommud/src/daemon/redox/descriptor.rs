//! Which descriptors the next program gets: those that are meant for it, and no other.

use std::env;
use std::io;
use std::process::{Child, Command};

use libredox::call::fcntl;
use libredox::error::Result;
use libredox::flag::{F_SETFD, O_CLOEXEC};

/// The command that starts this program once more, with the same arguments, as whoever started it did.
pub fn this_program() -> Command {
    let mut words = env::args_os();
    let mut command = Command::new(words.next().unwrap_or_else(|| "iommud".into()));
    command.args(words);
    command
}

/// Keeps a descriptor from the programs that this process starts.
///
/// # Errors
///
/// Those of a number that is no descriptor.
pub fn keep(descriptor: usize) -> Result<()> {
    // The flag has the same value among a descriptor's flags as among those of open.
    fcntl(descriptor, F_SETFD as usize, O_CLOEXEC as usize).map(drop)
}

/// Starts a program that gets these descriptors. This process has one thread, so that no other program gets them
/// meanwhile.
///
/// # Errors
///
/// Those of starting it.
pub fn spawn(command: &mut Command, descriptors: &[usize]) -> io::Result<Child> {
    for &descriptor in descriptors {
        fcntl(descriptor, F_SETFD as usize, 0)?;
    }
    let child = command.spawn();
    for &descriptor in descriptors {
        keep(descriptor)?;
    }
    child
}
