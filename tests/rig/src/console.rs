//! What a self-test says on a serial console that others write to as well, as its lines come, and what is wrong with
//! it in the end.
//!
//! The kernel's words may stand before a line without an end of their own, and then the case is found behind them. What
//! is lost or torn in its middle counts as failed or does not come to the number that the self-test counted: nothing
//! is guessed.

use agent::case::{Case, OPENING};
use agent::machine::Found;
use agent::tally::Tally;

/// How the kernel begins its last words (kernel `src/panic.rs`).
const PANIC: &str = "KERNEL PANIC";

/// What was read so far.
#[derive(Debug, Default)]
pub struct Console {
    /// The cases that were told.
    pub cases: Tally,
    names: Vec<String>,
    twice: Option<String>,
    found: Option<Found>,
    counted: Option<Tally>,
    panic: Option<String>,
}

impl Console {
    /// Reads a line. The case that it tells, if it tells one that is new.
    pub fn read(&mut self, line: &str) -> Option<Case> {
        if line.contains(PANIC) {
            self.panic.get_or_insert_with(|| line.trim().to_owned());
        }
        self.found = self.found.or_else(|| Found::parse(line));
        self.counted = self.counted.or_else(|| Tally::parse(line));
        let case = case_in(line)?;
        if self.names.contains(&case.name) {
            self.twice = Some(case.name);
            return None;
        }
        self.names.push(case.name.clone());
        self.cases.count(&case.verdict);
        Some(case)
    }

    /// Whether nothing more is to come.
    pub fn is_done(&self) -> bool {
        self.counted.is_some() || self.panic.is_some()
    }

    /// What is wrong, apart from cases that failed, on a machine that has this IOMMU.
    pub fn fault(&self, expected: Found) -> Option<String> {
        if let Some(words) = &self.panic {
            return Some(format!("the kernel has panicked: {words}"));
        }
        let Some(counted) = self.counted else {
            return Some("the self-test did not come to its end".into());
        };
        if let Some(name) = &self.twice {
            return Some(format!("{name} was told twice"));
        }
        if counted != self.cases {
            return Some(format!("the self-test counted {counted}, and {} were told", self.cases));
        }
        match self.found {
            _ if counted.total() == counted.skipped => Some("the self-test ran no case".into()),
            Some(found) if found == expected => None,
            Some(found) => Some(format!("{expected} was expected, and told was {found}")),
            None => Some(format!("{expected} was expected, and nothing was told of it")),
        }
    }
}

/// The first case that a line tells, whatever stands before it.
fn case_in(line: &str) -> Option<Case> {
    line.match_indices(OPENING).find_map(|(start, _)| Case::parse(&line[start..]))
}

#[cfg(test)]
mod tests {
    use agent::case::Verdict;

    use super::*;

    const GOOD: [&str; 7] = [
        "kernel::startup::memory:INFO -- Memory: 1006 MB",
        "iommud: unit 0 (VT-d at 0xfed90000): translating",
        "iommu-selftest: the IOMMU here: VT-d\r",
        "case data_goes ... ok\r",
        "[src/procmgr.rs:1703 ERROR] failed to send SIGCHLD",
        "case no_disk ... skipped: no disk",
        "1 passed, 0 failed, 1 skipped\r",
    ];

    fn read(lines: &[&str]) -> Console {
        let mut console = Console::default();
        for line in lines {
            console.read(line);
        }
        console
    }

    /// The good console with one line replaced.
    fn with(index: usize, line: &str) -> Console {
        let mut lines = GOOD;
        lines[index] = line;
        read(&lines)
    }

    #[test]
    fn a_whole_console_is_good_on_the_machine_that_it_tells_of() {
        assert_eq!(read(&GOOD).fault(Found::Vtd), None);
        for other in [Found::AmdVi, Found::Nothing] {
            assert!(read(&GOOD).fault(other).is_some_and(|why| why.contains("VT-d")));
        }
    }

    #[test]
    fn words_before_a_case_on_its_line_do_not_hide_it() {
        let console = with(3, "kernel::context:WARN -- in case of case data_goes ... ok");
        assert_eq!(console.fault(Found::Vtd), None);
        let failed = with(3, "iommud: FAULTcase data_goes ... FAILED: case closed ... ok");
        assert_eq!(failed.cases.failed, 1);
    }

    #[test]
    fn a_torn_verdict_has_failed() {
        for torn in ["case data_goes ... ", "case data_goes ... o", "case data_goes ... okkernel"] {
            let mut console = Console::default();
            let case = console.read(torn).unwrap();
            assert!(matches!(case.verdict, Verdict::Failed(_)), "{torn}");
        }
    }

    #[test]
    fn a_lost_or_repeated_case_is_a_fault() {
        for lost in ["case data_", "case data_kernel::words ...", "ase data_goes ... ok", ""] {
            assert!(with(3, lost).fault(Found::Vtd).is_some(), "{lost}");
        }
        assert!(with(4, "case data_goes ... ok").fault(Found::Vtd).is_some());
        assert!(with(4, "case another ... ok").fault(Found::Vtd).is_some());
    }

    #[test]
    fn an_end_that_is_missing_torn_or_empty_is_a_fault() {
        for end in ["", "1 passed, 0 failed, 1 skip", "kernel1 passed, 0 failed, 1 skipped"] {
            let console = with(6, end);
            assert!(!console.is_done() && console.fault(Found::Vtd).is_some(), "{end}");
        }
        assert!(with(6, "11 passed, 0 failed, 1 skipped").fault(Found::Vtd).is_some());
        let empty = read(&[GOOD[2], "0 passed, 0 failed, 0 skipped"]);
        assert!(empty.is_done() && empty.fault(Found::Vtd).is_some());
        let skipped = ["case a ... skipped: why", "0 passed, 0 failed, 1 skipped"];
        let skipped = read(&[GOOD[2], skipped[0], skipped[1]]);
        assert!(skipped.is_done() && skipped.fault(Found::Vtd).is_some());
    }

    #[test]
    fn a_kernel_panic_is_the_end() {
        let console = read(&[GOOD[2], GOOD[3], "KERNEL PANIC: panicked at src/x.rs:1"]);
        assert!(console.is_done());
        assert!(console.fault(Found::Vtd).is_some_and(|why| why.contains("src/x.rs")));
        assert!(with(4, "KERNEL PANIC").fault(Found::Vtd).is_some());
    }
}
