//! Child processes on a leash: output line by line, a deadline on every wait, nothing left behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

use thiserror::Error;

use crate::signal::{self, Signal};

/// How often a wait looks whether the process still lives.
const TICK: Duration = Duration::from_millis(20);

/// How long output may keep coming after the process has ended: whoever inherited its pipe is not waited for.
const DRAIN: Duration = Duration::from_secs(2);

/// A running process, its standard output and error in one stream of lines. Killed with everything
/// it started when dropped.
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    ended: Option<Ended>,
}

/// The end of a process, and when it was seen.
struct Ended {
    status: ExitStatus,
    seen_at: Instant,
}

impl Ended {
    fn now(status: ExitStatus) -> Self {
        Self { status, seen_at: Instant::now() }
    }
}

/// How a process ended, and all it said.
#[derive(Debug)]
pub struct Finished {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Every line it wrote, output and error in the order they were written.
    pub lines: Vec<String>,
}

/// A process did not do what was waited for.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It could not be started, or not be waited for.
    #[error("{name}: {source}")]
    Io {
        /// The program.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// It was still at it when its time was up, and has been killed.
    #[error("{name} was not done after {} s", limit.as_secs_f32())]
    TimedOut {
        /// The program.
        name: String,
        /// The time it had.
        limit: Duration,
        /// What it wrote until then.
        lines: Vec<String>,
    },
    /// It ended, or closed its output, before it wrote the line that was waited for.
    #[error("{name} ended ({status}) and never wrote {text:?}")]
    NoSuchLine {
        /// The program.
        name: String,
        /// Exit code or signal.
        status: ExitStatus,
        /// What the line should have contained.
        text: String,
        /// What it wrote instead.
        lines: Vec<String>,
    },
}

impl ProcessError {
    /// What the process wrote before it failed.
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Io { .. } => &[],
            Self::TimedOut { lines, .. } | Self::NoSuchLine { lines, .. } => lines,
        }
    }
}

/// What became of a wait for one more line.
enum Next {
    Line(String),
    Ended(ExitStatus),
    TimedOut,
}

impl Process {
    /// Starts a program with nothing on its standard input.
    pub fn start(mut command: Command) -> Result<Self, ProcessError> {
        let name = command.get_program().to_string_lossy().into_owned();
        let (child, reader) = spawn(&mut command)
            .map_err(|source| ProcessError::Io { name: name.clone(), source })?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name, child, lines, seen: Vec::new(), ended: None })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written, as far as somebody waited for it.
    pub fn seen(&self) -> &[String] {
        &self.seen
    }

    /// Sends a signal. An error if the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        signal::send(self.child.id(), signal)
    }

    /// Waits for a line that contains `text` and gives it back, skipping the lines before it.
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> Result<String, ProcessError> {
        self.wait_for(text, limit, |line| line.contains(text))
    }

    /// Waits for a line that is the one, showing each to `is_it` as it comes, and gives it back. `what` is what is waited
    /// for, in words.
    pub fn wait_for(
        &mut self,
        what: &str,
        limit: Duration,
        mut is_it: impl FnMut(&str) -> bool,
    ) -> Result<String, ProcessError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.next(deadline)? {
                Next::Line(line) if is_it(&line) => return Ok(line),
                Next::Line(_) => {}
                Next::TimedOut => return Err(self.timed_out(limit)),
                Next::Ended(status) => {
                    let (name, lines) = (self.name.clone(), self.seen.clone());
                    return Err(ProcessError::NoSuchLine {
                        name,
                        status,
                        text: what.into(),
                        lines,
                    });
                }
            }
        }
    }

    /// Takes the lines that are there, so that what is waited for next was written after now.
    pub fn skip_lines(&mut self) {
        self.seen.extend(self.lines.try_iter());
    }

    /// Waits for the end, showing each line to `on_line` as it comes.
    pub fn finish(
        mut self,
        limit: Duration,
        mut on_line: impl FnMut(&str),
    ) -> Result<Finished, ProcessError> {
        let deadline = Instant::now() + limit;
        let mut killed = false;
        loop {
            match self.next(deadline)? {
                Next::Line(line) => on_line(&line),
                // Its last line, which has no end, comes only when it is dead.
                Next::TimedOut if !killed => {
                    self.kill();
                    killed = true;
                }
                Next::Ended(status) if !killed => {
                    return Ok(Finished { status, lines: std::mem::take(&mut self.seen) });
                }
                Next::TimedOut | Next::Ended(_) => return Err(self.timed_out(limit)),
            }
        }
    }

    fn next(&mut self, deadline: Instant) -> Result<Next, ProcessError> {
        loop {
            let (until, end) = match &self.ended {
                Some(ended) => (ended.seen_at + DRAIN, Next::Ended(ended.status)),
                None => (deadline, Next::TimedOut),
            };
            if Instant::now() >= until {
                return Ok(end);
            }
            match self.lines.recv_timeout(TICK) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    return Ok(Next::Line(line));
                }
                Err(RecvTimeoutError::Disconnected) if self.ended.is_some() => return Ok(end),
                Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.ended.is_none() {
                let status = self.child.try_wait();
                let status = status
                    .map_err(|source| ProcessError::Io { name: self.name.clone(), source })?;
                self.ended = status.map(Ended::now);
            }
        }
    }

    /// Says that it has ended by itself, if it has and nobody saw it: whoever still holds it does not expect that, and what
    /// fails without it would not tell.
    fn tell_of_its_end(&mut self) {
        if let (None, Ok(Some(status))) = (&self.ended, self.child.try_wait()) {
            self.ended = Some(Ended::now(status));
            while matches!(self.next(Instant::now()), Ok(Next::Line(_))) {}
            eprintln!("{} has ended by itself ({status}) and wrote:", self.name);
            self.seen.iter().for_each(|line| eprintln!("  {line}"));
        }
    }

    /// Kills it and all that descends from it, unless it has ended by itself.
    fn kill(&mut self) {
        if self.ended.is_none() {
            // Parents first: a shell whose child was killed still says so on the way out.
            let descendants = descendants(self.child.id());
            let _ = self.child.kill();
            for pid in descendants {
                // It may have ended meanwhile, which is what was wanted.
                let _ = signal::send(pid, Signal::Kill);
            }
            self.ended = self.child.wait().ok().map(Ended::now);
        }
    }

    fn timed_out(&mut self, limit: Duration) -> ProcessError {
        let (name, lines) = (self.name.clone(), self.seen.clone());
        ProcessError::TimedOut { name, limit, lines }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.tell_of_its_end();
        self.kill();
    }
}

/// Runs a program to its end. Shorthand for [`Process::start`] and [`Process::finish`].
pub fn run(command: Command, limit: Duration) -> Result<Finished, ProcessError> {
    Process::start(command)?.finish(limit, |_| {})
}

fn spawn(command: &mut Command) -> io::Result<(Child, PipeReader)> {
    let (reader, writer) = io::pipe()?;
    let child = command.stdin(nothing()?).stdout(writer.try_clone()?).stderr(writer).spawn();
    // The command holds the pipe's other end, which would keep the reader waiting.
    command.stdout(Stdio::inherit()).stderr(Stdio::inherit());
    Ok((child?, reader))
}

/// Something that is empty when read. On Redox by its own name, for before there is a root file system there is no
/// `/dev/null`.
fn nothing() -> io::Result<Stdio> {
    if cfg!(target_os = "redox") {
        Ok(File::open("/scheme/null")?.into())
    } else {
        Ok(Stdio::null())
    }
}

/// Everything that descends from a process now, parents before their children. They stay in our process group, so that Ctrl-C on a
/// terminal reaches them all; that is why they are found by parentage. Redox does not tell it: there only the process itself is
/// killed.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut children = BTreeMap::<u32, Vec<u32>>::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some(parent) =
            fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(parent_in_stat)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut queue = vec![root];
    while let Some(pid) = queue.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(child);
            queue.push(child);
        }
    }
    found
}

/// The parent's id in a line of `/proc/PID/stat`: second after the name, which stands in parentheses
/// and may hold anything.
fn parent_in_stat(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_arrive_in_order_with_the_exit_code() {
        let end = run(shell("echo one; echo two >&2; echo three; exit 3"), DRAIN).unwrap();
        assert_eq!(end.lines, ["one", "two", "three"]);
        assert_eq!(end.status.code(), Some(3));
    }

    #[test]
    fn a_deadline_kills_what_the_process_started_too() {
        let error = run(shell("sleep 987654 & echo $!; wait"), Duration::from_millis(300));
        let error = error.unwrap_err();
        assert!(matches!(&error, ProcessError::TimedOut { .. }));
        let sleeper = error.lines().first().unwrap();
        let gone = |stat: io::Result<String>| stat.map_or(true, |stat| stat.contains(") Z "));
        // It was killed when this one was, and dies when it is next scheduled.
        let patience = Instant::now() + DRAIN;
        while !gone(fs::read_to_string(format!("/proc/{sleeper}/stat"))) {
            assert!(Instant::now() < patience, "{sleeper} lives on");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn an_endless_stream_of_lines_meets_the_deadline() {
        let limit = Duration::from_millis(300);
        assert!(matches!(run(shell("exec yes"), limit), Err(ProcessError::TimedOut { .. })));
    }

    #[test]
    fn a_line_without_an_end_is_seen_when_time_is_up() {
        let mut last = String::new();
        let process = Process::start(shell("printf 'case a ... '; sleep 987654")).unwrap();
        let end = process.finish(Duration::from_millis(300), |line| last = line.to_owned());
        assert!(
            matches!(end, Err(ProcessError::TimedOut { lines, .. }) if lines == ["case a ... "])
        );
        assert_eq!(last, "case a ... ");
    }

    #[test]
    fn an_heir_of_the_pipe_is_not_waited_for() {
        let start = Instant::now();
        let end = run(shell("sleep 30 & echo started"), Duration::from_secs(20)).unwrap();
        assert_eq!(end.lines, ["started"]);
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_line_is_waited_for_and_its_absence_is_told() {
        let mut process = Process::start(shell("echo ready: 1; exit 0")).unwrap();
        assert_eq!(process.wait_line("ready", DRAIN).unwrap(), "ready: 1");
        let error = process.wait_line("never", DRAIN).unwrap_err();
        assert!(matches!(error, ProcessError::NoSuchLine { .. }));
    }

    #[test]
    fn the_parent_is_found_behind_a_hostile_name() {
        assert_eq!(parent_in_stat("12 (a) R 1) S 34 12"), Some(34));
        assert_eq!(parent_in_stat("nonsense"), None);
    }
}
