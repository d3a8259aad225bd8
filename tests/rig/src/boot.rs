//! A machine booted once: its cases are reported as its lines come, and what it owed besides is judged.

use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
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

/// How many machines run at once: each is busy on one processor, and waits now and then.
const AT_ONCE: usize = 2;

/// A report that machines which run side by side have in common.
pub struct Shared<'r>(Mutex<&'r mut Report>);

impl<'r> Shared<'r> {
    /// Of this one.
    pub fn new(report: &'r mut Report) -> Self {
        Self(Mutex::new(report))
    }

    /// What is reported until this is dropped stands together.
    pub fn lock(&self) -> MutexGuard<'_, &'r mut Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something with each of these, in their order, two at a time.
pub fn side_by_side<T: Sync>(all: &[T], act: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let take = || all.get(next.fetch_add(1, Ordering::Relaxed));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| std::iter::from_fn(take).for_each(&act));
        }
    });
}

/// Boots a machine whose serial line is QEMU's standard output, and reports each case that it tells
/// there, `prefix` before its name, with the lines that follow it when it failed.
pub fn boot(report: &Shared<'_>, prefix: &str, machine: Command, limit: Duration) -> Boot {
    // A case that failed and what was said of it, as long as that goes on.
    let mut failed: Option<(Case, Vec<String>)> = None;
    let tell = |failed: Option<(Case, Vec<String>)>| {
        if let Some((case, lines)) = failed {
            let mut report = report.lock();
            report.case(&case);
            report.output(&lines);
        }
    };
    let boot = watch(machine, limit, |line, case, cases| {
        if let Some(Case { name, verdict }) = case {
            tell(failed.take());
            let case = Case { name: format!("{prefix}{name}"), verdict };
            match case.verdict {
                Verdict::Failed(_) => failed = Some((case, Vec::new())),
                _ => report.lock().case(&case),
            }
        } else if let Some((_, lines)) = &mut failed
            && line != cases.to_string()
        {
            lines.push(line.trim().to_owned());
        }
    });
    tell(failed);
    boot
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
    fn all_are_done_once_and_no_more_than_two_at_once() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let done: [_; 7] = Default::default();
        side_by_side(&done, |done: &AtomicUsize| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            done.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(10));
            now.fetch_sub(1, Ordering::SeqCst);
        });
        assert!(done.iter().all(|it| it.load(Ordering::SeqCst) == 1));
        assert!(most.into_inner() <= AT_ONCE);
    }

    #[test]
    fn a_case_that_failed_is_reported_whatever_follows_it() {
        let mut report = Report::new();
        let case = |name: &str, verdict| Case { name: name.into(), verdict }.to_string();
        let failed = case("b", Verdict::Failed("why".into()));
        let end = Tally { passed: 2, failed: 1, skipped: 0 }.to_string();
        let told = [case("a", Verdict::Ok), failed, "more".into(), case("c", Verdict::Ok), end];
        let mut guest = Command::new("printf");
        guest.arg("%s\\n").args(told);
        report.suite("t9", "a boot", |report| {
            let limit = Duration::from_secs(10);
            let boot = super::boot(&Shared::new(report), "m: ", guest, limit);
            assert_eq!(boot.fault(&[0]), None);
            assert_eq!((boot.cases.passed, boot.cases.failed), (2, 1));
        });
        assert!(!report.end());
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
