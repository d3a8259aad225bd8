//! A machine booted once: its cases are reported as its lines come, and what it owed besides is judged.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::case::{Case, Verdict};
use crate::process::Process;
use crate::report::Report;

/// What is left of a boot when its cases have been reported.
pub struct Boot {
    /// How many cases it reported.
    pub cases: usize,
    /// How QEMU ended, or why it did not.
    pub ended: Result<ExitStatus, String>,
    /// All that it wrote.
    pub lines: Vec<String>,
}

/// Boots a machine whose serial line is QEMU's standard output, and reports each case that it tells
/// there, `prefix` before its name, with the lines that follow it when it failed.
pub fn boot(report: &mut Report, prefix: &str, machine: Command, limit: Duration) -> Boot {
    let mut cases = 0;
    let mut telling = false;
    let ended = Process::start(machine).and_then(|process| {
        process.finish(limit, |line| {
            if let Some(Case { name, verdict }) = Case::parse(line) {
                cases += 1;
                telling = matches!(verdict, Verdict::Failed(_));
                report.case(&Case { name: format!("{prefix}{name}"), verdict });
            } else if telling {
                report.output(&[line.trim().to_owned()]);
            }
        })
    });
    match ended {
        Ok(end) => Boot { cases, ended: Ok(end.status), lines: end.lines },
        Err(error) => Boot { cases, ended: Err(error.to_string()), lines: error.lines().to_vec() },
    }
}
