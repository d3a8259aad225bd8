//! Cases counted, and the line that says so at the end of a run.

use std::fmt;
use std::ops::AddAssign;

use crate::case::Verdict;

/// Cases counted by their verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Cases that hold.
    pub passed: usize,
    /// Cases that do not, and suites that could not run.
    pub failed: usize,
    /// Cases that were left out.
    pub skipped: usize,
}

impl Tally {
    /// All cases.
    pub fn total(self) -> usize {
        self.passed + self.failed + self.skipped
    }

    /// Counts one more.
    pub fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Ok => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
    }

    /// Reads a line that is a tally and nothing else: `3 passed, 0 failed, 1 skipped`.
    pub fn parse(line: &str) -> Option<Self> {
        let [passed, failed, skipped] = line.trim().split(", ").collect::<Vec<_>>()[..] else {
            return None;
        };
        let number = |words: &str, what: &str| words.strip_suffix(what)?.parse().ok();
        Some(Self {
            passed: number(passed, " passed")?,
            failed: number(failed, " failed")?,
            skipped: number(skipped, " skipped")?,
        })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read_and_nothing_else() {
        let tally = Tally { passed: 12, failed: 0, skipped: 3 };
        assert_eq!(tally.to_string(), "12 passed, 0 failed, 3 skipped");
        assert_eq!(Tally::parse(&format!("{tally}\r")), Some(tally));
        for line in [
            "",
            "12 passed, 0 failed",
            "it 12 passed, 0 failed, 3 skipped",
            "1 ok, 2 failed, 3 skipped",
        ] {
            assert_eq!(Tally::parse(line), None, "{line:?}");
        }
    }
}
