//! What the person before the terminal reads: cases, subtotals, and one last line that scripts read too.

use std::io::{self, IsTerminal};
use std::time::Instant;

use agent::case::{Case, Verdict};
use agent::tally::Tally;

/// How many lines of a program's output are shown below a failure.
const SHOWN: usize = 60;

/// Everything one run of the rig reports.
pub struct Report {
    colour: bool,
    suite: &'static str,
    suite_tally: Tally,
    tally: Tally,
    failures: Vec<String>,
}

impl Report {
    /// An empty report; in colour when standard output is a terminal.
    pub fn new() -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (suite_tally, tally) = (Tally::default(), Tally::default());
        Self { colour, suite: "", suite_tally, tally, failures: Vec::new() }
    }

    /// Runs one suite under its heading and prints its subtotal and time. A suite that counted nothing
    /// has failed.
    pub fn suite(&mut self, name: &'static str, about: &str, body: impl FnOnce(&mut Self)) {
        println!("{}", self.paint("1", &format!("{name}: {about}")));
        let start = Instant::now();
        (self.suite, self.suite_tally) = (name, Tally::default());
        body(self);
        if self.suite_tally.total() == 0 {
            self.failed("cases", "the suite ran no case at all");
        }
        // Other words than the last line's, which is the only one of its form.
        let Tally { passed, failed, skipped } = self.suite_tally;
        let seconds = start.elapsed().as_secs_f32();
        println!("  = {passed} ok, {failed} failed, {skipped} skipped in {seconds:.1} s\n");
        self.tally += self.suite_tally;
    }

    /// A case with its verdict.
    pub fn case(&mut self, case: &Case) {
        let Case { name, verdict } = case;
        self.suite_tally.count(verdict);
        let colour = match verdict {
            Verdict::Ok => "32",
            Verdict::Failed(why) => {
                self.failures.push(format!("{} {name}: {why}", self.suite));
                "31"
            }
            Verdict::Skipped(_) => "33",
        };
        self.row(name, &self.paint(colour, &verdict.to_string()));
    }

    /// A case that holds.
    pub fn passed(&mut self, name: &str) {
        self.case(&Case { name: name.to_owned(), verdict: Verdict::Ok });
    }

    /// A case that does not hold, or a suite that could not run.
    pub fn failed(&mut self, name: &str, why: &str) {
        self.case(&Case { name: name.to_owned(), verdict: Verdict::Failed(why.to_owned()) });
    }

    /// Many cases at once, already judged by somebody else. Failures are named apart.
    pub fn counted(&mut self, name: &str, tally: Tally) {
        self.suite_tally += tally;
        let mut words = format!("{} ok", tally.passed);
        for (count, what) in [(tally.failed, "FAILED"), (tally.skipped, "skipped")] {
            if count > 0 {
                words += &format!(", {count} {what}");
            }
        }
        self.row(name, &self.paint(if tally.failed > 0 { "31" } else { "32" }, &words));
    }

    /// Names a failure that [`Report::counted`] has counted.
    pub fn named_failure(&mut self, name: &str) {
        self.failures.push(format!("{} {name}", self.suite));
    }

    /// A remark.
    pub fn note(&self, text: &str) {
        println!("  {text}");
    }

    /// The last lines of what a program wrote, below a failure.
    pub fn output(&self, lines: &[String]) {
        let skipped = lines.len().saturating_sub(SHOWN);
        if skipped > 0 {
            println!("  | ({skipped} lines before)");
        }
        for line in lines.iter().skip(skipped) {
            // A guest's escape sequences stay out of the terminal.
            let line: String = line.chars().filter(|c| *c == '\t' || !c.is_control()).collect();
            println!("  | {line}");
        }
    }

    /// Prints all failures again and the last line, and says whether there were none.
    pub fn end(self) -> bool {
        if !self.failures.is_empty() {
            println!("{}", self.paint("31;1", "Failed:"));
            for failure in &self.failures {
                println!("  {failure}");
            }
            println!();
        }
        println!("{}", self.tally);
        self.tally.failed == 0
    }

    fn row(&self, name: &str, verdict: &str) {
        println!("  {name:<52} {verdict}");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_that_runs_nothing_fails() {
        let mut report = Report::new();
        report.suite("t9", "nothing", |_| {});
        assert_eq!(report.tally, Tally { failed: 1, ..Tally::default() });
        assert!(!report.end());
    }

    #[test]
    fn suites_add_up_and_one_failure_fails_the_run() {
        let mut report = Report::new();
        report.suite("t8", "fine", |report| report.passed("a"));
        report.suite("t9", "mixed", |report| {
            report.counted("many", Tally { passed: 3, failed: 0, skipped: 2 });
            report.failed("b", "it broke");
        });
        assert_eq!(report.tally.to_string(), "4 passed, 1 failed, 2 skipped");
        assert!(!report.end());
    }

    #[test]
    fn all_green_is_success() {
        let mut report = Report::new();
        report.suite("t8", "fine", |report| report.passed("a"));
        assert!(report.end());
    }
}
