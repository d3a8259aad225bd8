//! Machines booted once each, as many at a time as there are cores: their cases are reported machine by machine, as
//! their lines come, and what they owed besides is judged.

use std::collections::VecDeque;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::report::Report;
use agent::case::{Case, Verdict};
use agent::process::{Finished, Process, ProcessError};
use agent::tally::Tally;

/// A machine that is to be booted. Its serial line is QEMU's standard output.
pub struct Machine {
    /// What it is called: it stands before the names of its cases.
    pub name: &'static str,
    /// QEMU, with all it needs.
    pub command: Command,
}

/// What is left of a boot when its cases have been reported.
pub struct Boot {
    /// The cases it reported.
    pub cases: Tally,
    /// How QEMU ended, or why it did not.
    pub ended: Result<ExitStatus, String>,
    /// All that it wrote.
    pub lines: Vec<String>,
}

impl Boot {
    /// What is wrong with it, apart from cases that failed. QEMU must have ended with one of the codes
    /// `ends`, and the guest with the number of its cases, so that none was lost on the way.
    pub fn fault(&self, ends: &[i32]) -> Option<String> {
        match &self.ended {
            Err(why) => Some(why.clone()),
            Ok(status) if !status.code().is_some_and(|code| ends.contains(&code)) => {
                Some(format!("QEMU ended with {status}"))
            }
            Ok(_) if self.cases.total() == 0 => Some("no case was reported".into()),
            Ok(_) if !self.lines.contains(&self.cases.to_string()) => Some(format!(
                "{} cases were seen, and the guest counted otherwise",
                self.cases.total()
            )),
            Ok(_) => None,
        }
    }
}

/// What comes from a machine that runs.
enum Word {
    Line(String),
    End(Result<Finished, ProcessError>),
}

/// Boots the machines, each for no longer than `limit`, and reports each case that one tells, with the lines that follow
/// it when it failed. What is left of each is given to `judge`, in their order.
pub fn boot(
    report: &mut Report,
    machines: Vec<Machine>,
    limit: Duration,
    mut judge: impl FnMut(&mut Report, &'static str, Boot),
) {
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let (waiting, words): (VecDeque<_>, Vec<_>) = machines
        .into_iter()
        .map(|machine| {
            let (teller, words) = channel();
            ((machine.command, teller), (machine.name, words))
        })
        .unzip();
    let waiting = Mutex::new(waiting);
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some((command, teller)) = next() {
                    run(command, limit, &teller);
                }
            });
        }
        for (name, words) in words {
            let boot = tell(report, name, &words);
            judge(report, name, boot);
        }
    });
}

/// Runs a machine to its end. Nobody has to listen.
fn run(command: Command, limit: Duration, teller: &Sender<Word>) {
    let ended = Process::start(command).and_then(|process| {
        process.finish(limit, |line| {
            let _ = teller.send(Word::Line(line.to_owned()));
        })
    });
    let _ = teller.send(Word::End(ended));
}

/// Reports what a machine says until it ends.
fn tell(report: &mut Report, machine: &str, words: &Receiver<Word>) -> Boot {
    let mut cases = Tally::default();
    let mut telling = false;
    loop {
        match words.recv() {
            Ok(Word::Line(line)) => {
                if let Some(Case { name, verdict }) = Case::parse(&line) {
                    cases.count(&verdict);
                    telling = matches!(verdict, Verdict::Failed(_));
                    report.case(&Case { name: format!("{machine}: {name}"), verdict });
                } else if telling && line != cases.to_string() {
                    report.output(&[line.trim().to_owned()]);
                }
            }
            Ok(Word::End(Ok(end))) => {
                return Boot { cases, ended: Ok(end.status), lines: end.lines };
            }
            Ok(Word::End(Err(error))) => {
                let lines = error.lines().to_vec();
                return Boot { cases, ended: Err(error.to_string()), lines };
            }
            Err(_) => {
                let ended = Err("the rig lost sight of it".to_owned());
                return Boot { cases, ended, lines: Vec::new() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn ended(code: i32, cases: usize, last: &str) -> Boot {
        let cases = Tally { passed: cases, ..Tally::default() };
        Boot { cases, ended: Ok(ExitStatus::from_raw(code << 8)), lines: vec![last.into()] }
    }

    #[test]
    fn a_boot_is_good_that_ends_as_it_should_and_counted_the_same() {
        assert_eq!(ended(33, 2, "2 passed, 0 failed, 0 skipped").fault(&[33, 35]), None);
    }

    #[test]
    fn a_boot_that_loses_cases_or_itself_is_not() {
        assert!(ended(33, 1, "2 passed, 0 failed, 0 skipped").fault(&[33]).is_some());
        assert!(ended(33, 0, "0 passed, 0 failed, 0 skipped").fault(&[33]).is_some());
        assert!(ended(33, 2, "and then it rebooted").fault(&[33]).is_some());
        assert!(ended(37, 2, "2 passed, 0 failed, 0 skipped").fault(&[33]).is_some());
        let killed = Boot { ended: Ok(ExitStatus::from_raw(6)), ..ended(0, 1, "") };
        assert!(killed.fault(&[0]).is_some_and(|why| why.contains("SIGABRT")));
    }
    fn shell(name: &'static str, script: &str) -> Machine {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Machine { name, command }
    }

    #[test]
    fn machines_run_at_once_and_are_reported_one_after_the_other() {
        let mut report = Report::new();
        let slow = "echo 'case a ... ok'; sleep 0.3; echo 'case b ... FAILED: why'; echo 1 passed, 1 failed, 0 skipped";
        let quick = "echo 'case c ... ok'; echo 1 passed, 0 failed, 0 skipped; exit 3";
        let machines =
            vec![shell("slow", slow), shell("quick", quick), shell("none", "exec false")];
        let mut seen = Vec::new();
        report.suite("t9", "machines", |report| {
            boot(report, machines, Duration::from_secs(20), |_, name, boot| {
                let fault = boot.fault(&[0, 3]).is_some();
                seen.push((name, boot.cases.passed, boot.cases.failed, fault));
            });
        });
        assert_eq!(seen, [("slow", 1, 1, false), ("quick", 1, 0, false), ("none", 0, 0, true)]);
        assert!(!report.end());
    }

    #[test]
    fn a_machine_that_does_not_end_ends_with_its_time() {
        let mut report = Report::new();
        let mut faults = Vec::new();
        let machines = vec![shell("hangs", "sleep 987654"), shell("is not there", "exit 0")];
        boot(&mut report, machines, Duration::from_millis(300), |_, _, boot| {
            faults.push(boot.fault(&[0]).unwrap());
        });
        assert!(faults[0].contains("not done") && faults[1].contains("no case"), "{faults:?}");
    }
}
