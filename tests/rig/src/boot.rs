//! A machine booted once: its cases are reported as its lines come, and what it owed besides is judged.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::report::Report;
use agent::case::{Case, Verdict};
use agent::process::Process;
use agent::tally::Tally;

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

/// Boots a machine whose serial line is QEMU's standard output, and reports each case that it tells
/// there, `prefix` before its name, with the lines that follow it when it failed.
pub fn boot(report: &mut Report, prefix: &str, machine: Command, limit: Duration) -> Boot {
    let mut telling = false;
    watch(machine, limit, |line, case, cases| {
        if let Some(Case { name, verdict }) = case {
            telling = matches!(verdict, Verdict::Failed(_));
            report.case(&Case { name: format!("{prefix}{name}"), verdict });
        } else if telling && line != cases.to_string() {
            report.output(&[line.trim().to_owned()]);
        }
    })
}

/// The same, and shows each line as it comes, with the case that it tells, and all until then.
pub fn watch(
    machine: Command,
    limit: Duration,
    mut on_line: impl FnMut(&str, Option<Case>, Tally),
) -> Boot {
    let mut cases = Tally::default();
    let ended = Process::start(machine).and_then(|process| {
        process.finish(limit, |line| {
            let case = Case::parse(line);
            if let Some(case) = &case {
                cases.count(&case.verdict);
            }
            on_line(line, case, cases);
        })
    });
    match ended {
        Ok(end) => Boot { cases, ended: Ok(end.status), lines: end.lines },
        Err(error) => Boot { cases, ended: Err(error.to_string()), lines: error.lines().to_vec() },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn boot(code: i32, cases: usize, last: &str) -> Boot {
        let cases = Tally { passed: cases, ..Tally::default() };
        Boot { cases, ended: Ok(ExitStatus::from_raw(code << 8)), lines: vec![last.into()] }
    }

    #[test]
    fn a_boot_is_good_that_ends_as_it_should_and_counted_the_same() {
        assert_eq!(boot(33, 2, "2 passed, 0 failed, 0 skipped").fault(&[33, 35]), None);
    }

    #[test]
    fn a_boot_that_loses_cases_or_itself_is_not() {
        assert!(boot(33, 1, "2 passed, 0 failed, 0 skipped").fault(&[33]).is_some());
        assert!(boot(33, 0, "0 passed, 0 failed, 0 skipped").fault(&[33]).is_some());
        assert!(boot(33, 2, "and then it rebooted").fault(&[33]).is_some());
        assert!(boot(37, 2, "2 passed, 0 failed, 0 skipped").fault(&[33]).is_some());
        let killed = Boot { ended: Ok(ExitStatus::from_raw(6)), ..boot(0, 1, "") };
        assert!(killed.fault(&[0]).is_some_and(|why| why.contains("SIGABRT")));
    }
}
