//! Signals to processes, which the two systems want named each in its own way.

use std::io;

/// A signal that a test sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ends a process at whatever instruction it is.
    Kill,
    /// Asks it to end.
    Term,
    /// Stops it.
    Stop,
    /// Lets it go on.
    Continue,
}

/// Sends a signal. An error if there is no such process.
#[cfg(target_os = "linux")]
pub fn send(pid: u32, signal: Signal) -> io::Result<()> {
    use rustix::process::{Pid, Signal as System, kill_process};

    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    let signal = match signal {
        Signal::Kill => System::KILL,
        Signal::Term => System::TERM,
        Signal::Stop => System::STOP,
        Signal::Continue => System::CONT,
    };
    Ok(kill_process(pid, signal)?)
}

/// Sends a signal. An error if there is no such process.
#[cfg(target_os = "redox")]
pub fn send(pid: u32, signal: Signal) -> io::Result<()> {
    // POSIX's numbers, which relibc has as well (`header/signal/redox.rs`).
    let number = match signal {
        Signal::Kill => 9,
        Signal::Term => 15,
        Signal::Stop => 19,
        Signal::Continue => 18,
    };
    Ok(libredox::call::kill(pid as usize, number)?)
}
