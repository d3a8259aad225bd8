//! The programs under test, as processes.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::failure::{Failure, Outcome, require};
use crate::process::{Process, ProcessError};
use crate::signal::Signal;

/// How long anything may take that a program is waited for. A case has its own limit above it.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// The user who may do nothing.
const NOBODY: u32 = 65534;

/// A running program, killed with everything that it started when dropped.
pub struct Program {
    process: Process,
}

/// How a program ended.
pub struct End {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// All that it wrote.
    pub lines: Vec<String>,
}

impl Program {
    /// Starts a program.
    pub fn start(program: &str, arguments: &[&str]) -> Outcome<Self> {
        Self::from_command(command(program, arguments))
    }

    /// Starts what a command says.
    pub fn from_command(command: Command) -> Outcome<Self> {
        Ok(Self { process: Process::start(command).map_err(told)? })
    }

    /// Waits for a line that contains `text`.
    pub fn wait_line(&mut self, text: &str) -> Outcome<String> {
        self.process.wait_line(text, PATIENCE).map_err(told)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.process.signal(signal)
    }

    /// Takes the lines that are there, so that what is waited for next was written after now.
    pub fn skip_lines(&mut self) {
        self.process.skip_lines();
    }

    /// Waits for its end.
    pub fn finish(self) -> Outcome<End> {
        let end = self.process.finish(PATIENCE, |_| {}).map_err(told)?;
        Ok(End { code: end.status.code(), lines: end.lines })
    }

    /// Kills it, and waits until it is dead.
    pub fn kill(self) -> Outcome {
        self.signal(Signal::Kill)?;
        let end = self.finish()?;
        require!(end.code.is_none(), "it had ended before it was killed: {:?}", end.code);
        Ok(())
    }
}

impl End {
    /// That it ended with this code.
    pub fn expect(self, code: i32) -> Outcome<Self> {
        if self.code != Some(code) {
            show(&self.lines);
        }
        require!(self.code == Some(code), "the exit code is {:?} instead of {code}", self.code);
        Ok(self)
    }

    /// The first line that contains `text`.
    pub fn line(&self, text: &str) -> Outcome<&str> {
        let line = self.lines.iter().find(|line| line.contains(text));
        line.map(String::as_str).ok_or_else(|| {
            show(&self.lines);
            Failure(format!("it never said {text:?}"))
        })
    }
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str]) -> Outcome<End> {
    Program::start(program, arguments)?.finish()
}

/// Runs a program to its end, as a user who may do nothing.
pub fn run_as_nobody(program: &str, arguments: &[&str]) -> Outcome<End> {
    let mut command = command(program, arguments);
    command.uid(NOBODY).gid(NOBODY);
    Program::from_command(command)?.finish()
}

/// Waits until something holds. `what` says what, for the case that it never does.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> Outcome<bool>) -> Outcome {
    let end = Instant::now() + PATIENCE;
    while !holds()? {
        require!(Instant::now() < end, "{what}: not after {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Shows what a program wrote that did not do what was waited for.
fn told(error: ProcessError) -> Failure {
    show(error.lines());
    error.into()
}

fn show(lines: &[String]) {
    lines.iter().for_each(|line| eprintln!("{line}"));
}
