//! Watches over the process that serves.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use super::error::Error;
use super::{HAND_VARIABLE, INIT_VARIABLE, descriptor, name};
use crate::daemon::hand_over::{HAND_OVER_VARIABLE, HandOver, Report, Start};
use crate::daemon::keeping::{End, Keeping, Next};
use crate::daemon::log;
use crate::platform::redox::AnchoredObject;

/// Who waits for the daemon to be ready, until it is.
pub enum Starter {
    /// Init, on this pipe: it goes to the first process that serves.
    Init(Option<OwnedFd>),
    /// The process that was started by hand, which is told the exit code that it shall end with.
    Hand(Option<PipeWriter>),
}

/// A process that serves.
struct Serving {
    process: Child,
    /// On which it says what became of the units. It ends when the process does.
    reports: PipeReader,
}

/// Starts the process that serves, and the next one when it dies. The exit code to end with.
///
/// # Errors
///
/// Whatever keeps the first one from being started.
pub fn keep(mut starter: Starter) -> Result<u8, Error> {
    let code = keep_until_end(&mut starter);
    if let Err(error) = &code {
        starter.told(error.exit_code());
    }
    code
}

fn keep_until_end(starter: &mut Starter) -> Result<u8, Error> {
    name::free()?;
    let mut keeping = Keeping::default();
    let mut server = Serving::start(starter.start(), starter, &mut keeping)?;
    loop {
        let began = Instant::now();
        let how = server.watch(|report| match report {
            Report::SetAside => keeping.set_aside(),
            Report::AllTranslate | Report::SomeDoNot => {
                keeping.touched(report == Report::AllTranslate);
                starter.told(0);
            }
        });
        free_name();
        let mut next = keeping.ended(how, began.elapsed());
        server = loop {
            match next {
                Next::End(code) => {
                    starter.told(code);
                    return Ok(code);
                }
                Next::Again(pause) => {
                    log::line(keeping.told(how, pause));
                    thread::sleep(pause);
                }
            }
            let start = Start::Again(keeping.deaths());
            match Serving::start(start, starter, &mut keeping) {
                Ok(server) => break server,
                Err(error) => log::line(error),
            }
            next = keeping.ended(End::Crash, Duration::ZERO);
        };
    }
}

/// After a death. A daemon that somebody else has started meanwhile keeps the name.
fn free_name() {
    match name::free() {
        Ok(()) | Err(Error::AlreadyServed) => {}
        Err(error) => log::line(format_args!("the name of the dead cannot be freed: {error}")),
    }
}

impl Starter {
    /// How the first process comes to be started.
    fn start(&self) -> Start {
        match self {
            Self::Init(_) => Start::Init,
            Self::Hand(_) => Start::Hand,
        }
    }

    /// Tells the process that was started by hand what to end with, once. Init gets its word from the one that
    /// serves, or sees that the pipe is closed.
    fn told(&mut self, code: u8) {
        if let Self::Hand(pipe) = self
            && let Some(mut pipe) = pipe.take()
        {
            // If it is gone, nobody waits.
            let _ = pipe.write_all(&[code]);
        }
    }
}

impl Serving {
    fn start(
        start: Start,
        starter: &mut Starter,
        keeping: &mut Keeping<AnchoredObject>,
    ) -> Result<Self, Error> {
        let own = AnchoredObject::create().map_err(Error::Memory)?;
        let (reports, writer) = io::pipe()?;
        let report = writer.as_raw_fd() as usize;
        let number = |it: &AnchoredObject| it.object().descriptor().raw();
        let mut descriptors = match keeping.current() {
            Some(left) => vec![number(left), report, number(&own)],
            None => vec![number(&own), report],
        };
        let left = HandOver { descriptors: descriptors.clone(), start };
        let mut command = descriptor::this_program();
        command.env(HAND_OVER_VARIABLE, left.to_string()).env_remove(HAND_VARIABLE);
        // Init waits until nobody has its pipe any more: no copy of it stays here.
        let pipe = match starter {
            Starter::Init(pipe) => pipe.take(),
            Starter::Hand(_) => None,
        };
        match &pipe {
            Some(pipe) => descriptors.push(pipe.as_raw_fd() as usize),
            None => drop(command.env_remove(INIT_VARIABLE)),
        }
        let process = descriptor::spawn(&mut command, &descriptors)?;
        drop(writer);
        keeping.started(own);
        Ok(Self { process, reports })
    }

    /// Waits until it ends, and hears what it has to say meanwhile.
    fn watch(&mut self, mut hear: impl FnMut(Report)) -> End {
        let mut byte = [0];
        loop {
            match self.reports.read(&mut byte) {
                Ok(1) => Report::from_byte(byte[0]).into_iter().for_each(&mut hear),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        loop {
            match self.process.wait() {
                Ok(status) => return end(status),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return End::Crash,
            }
        }
    }
}

/// How a process ended, by what the system says of it.
fn end(status: ExitStatus) -> End {
    match status.code().map(u8::try_from) {
        Some(Ok(code)) => End::Code(code),
        _ => End::Crash,
    }
}
