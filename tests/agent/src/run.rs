//! Cases, each run as a process of its own, so that one may panic, hang or leave processes behind without harm to the
//! next.

use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::case::Verdict;
use crate::failure::{Failure, Outcome};
use crate::process::{ProcessError, run};

/// What tells an agent, as its first argument, to run the case that the second names.
pub const CASE: &str = "case";

/// A case: a name for the property, the time it may take, and what it does.
pub struct Spec {
    /// One word.
    pub name: &'static str,
    /// Time in the guest, which is much slower than its host.
    pub limit: Duration,
    run: fn() -> Outcome,
}

impl Spec {
    /// A case.
    pub const fn new(name: &'static str, run: fn() -> Outcome) -> Self {
        Self { name, limit: Duration::from_secs(20), run }
    }

    /// A case that lets devices move much, each transfer in 100 ms.
    pub const fn long(name: &'static str, run: fn() -> Outcome) -> Self {
        Self { name, limit: Duration::from_secs(60), run }
    }

    /// The same, which may take this long.
    pub const fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Runs it in this process. What it says on failure is the last line it writes.
    pub fn run_here(&self) -> ExitCode {
        match (self.run)() {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure(why)) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        }
    }

    /// Runs it as a process of its own, with this program as the agent; its verdict, and what it wrote if it did not
    /// hold.
    pub fn run_apart(&self, mut agent: Command) -> (Verdict, Vec<String>) {
        agent.args([CASE, self.name]).env("RUST_BACKTRACE", "0");
        match run(agent, self.limit) {
            Ok(end) if end.status.success() => (Verdict::Ok, Vec::new()),
            Ok(end) => {
                let why = last_words(&end.lines).unwrap_or_else(|| end.status.to_string());
                (Verdict::Failed(why), end.lines)
            }
            Err(error) => {
                let why = match &error {
                    ProcessError::TimedOut { limit, .. } => {
                        format!("not done after {} s", limit.as_secs())
                    }
                    other => other.to_string(),
                };
                (Verdict::Failed(why), error.lines().to_vec())
            }
        }
    }
}

/// The last line in which something is said.
fn last_words(lines: &[String]) -> Option<String> {
    let says = |line: &&String| !line.trim().is_empty() && !line.contains("note: run with");
    lines.iter().rfind(says).map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Spec = Spec::new("nothing", || Ok(()));

    /// A stand-in for an agent: a shell that runs this, and not the case.
    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_end_of_the_process_is_the_verdict() {
        assert_eq!(NOTHING.run_apart(shell("echo fine")), (Verdict::Ok, vec![]));
        let (verdict, lines) = NOTHING.run_apart(shell("echo seen; echo why; echo; exit 1"));
        assert_eq!(verdict, Verdict::Failed("why".into()));
        assert_eq!(lines, ["seen", "why", ""]);
        let (verdict, _) = NOTHING.run_apart(shell("kill -9 $$"));
        assert!(matches!(verdict, Verdict::Failed(why) if why.contains('9')));
    }

    #[test]
    fn the_agent_is_told_which_case() {
        let (verdict, _) = NOTHING.run_apart(shell("test \"$0 $1\" = 'case nothing'"));
        assert_eq!(verdict, Verdict::Ok);
    }

    #[test]
    fn a_case_that_hangs_has_failed() {
        let hangs = Spec { limit: Duration::from_millis(300), ..NOTHING };
        let (verdict, lines) = hangs.run_apart(shell("echo waiting; sleep 987654"));
        assert_eq!(verdict, Verdict::Failed("not done after 0 s".into()));
        assert_eq!(lines, ["waiting"]);
    }
}
