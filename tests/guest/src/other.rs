//! This program once more, as another process that is a driver, too.

use std::env;
use std::io::{self, BufRead};
use std::os::fd::BorrowedFd;
use std::process::{Child, ChildStdout, Command, Stdio};

use libdma::transport::socket::Socket;
use libdma::{Device, Handle};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::devices::Function;
use crate::failure::{Failure, Outcome, require};
use crate::programs::wait_until;

/// The other process. It is killed when this is dropped.
pub(crate) struct Other {
    process: Child,
    lines: io::Lines<io::BufReader<ChildStdout>>,
}

impl Other {
    /// Starts it, with the word that tells it what it is to do, and its standard input.
    pub(crate) fn start(word: &str, input: impl Into<Stdio>) -> Outcome<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(word).stdin(input).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let out = process.stdout.take().ok_or(Failure("it has no output".into()))?;
        Ok(Self { process, lines: io::BufReader::new(out).lines() })
    }

    /// Waits for the line that says this.
    pub(crate) fn expect(&mut self, expected: &str) -> Outcome {
        let line = self.lines.next().ok_or(Failure(format!("no line, and not {expected:?}")))??;
        require!(line == expected, "it said {line:?}, and not {expected:?}");
        Ok(())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Lets the children of this process inherit a handle; gives its number.
pub(crate) fn let_inherit(handle: &Handle) -> Outcome<u64> {
    let number = handle.raw().number();
    // SAFETY: the handle is open as long as it is borrowed, and on Linux is a descriptor.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number as i32) };
    fcntl_setfd(descriptor, FdFlags::empty())?;
    Ok(number)
}

/// Opens a function at iommud.
pub(crate) fn open(function: &Function) -> Outcome<Device> {
    let address = function.name().parse().map_err(|_| Failure("no PCI address".into()))?;
    Ok(Device::open(Socket::connect()?, address)?)
}

/// The same, when a process that has just ended has left it.
pub(crate) fn open_when_free(function: &Function) -> Outcome<Device> {
    let mut opened = open(function);
    wait_until("the device is free", || {
        if opened.is_err() {
            opened = open(function);
        }
        Ok(opened.is_ok())
    })?;
    opened
}
