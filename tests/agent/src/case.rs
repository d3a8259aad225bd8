//! The line in which a guest reports a case: `case NAME ... ok`, `case NAME ... FAILED: why` or
//! `case NAME ... skipped: why`. When it is done, it says so with its [`Tally`](crate::tally::Tally).

use std::fmt;

/// How each line begins.
pub const OPENING: &str = "case ";
const BETWEEN: &str = " ... ";

/// How a case's line begins, up to its verdict.
pub fn opening(name: &str) -> String {
    format!("{OPENING}{name}{BETWEEN}")
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Ok,
    /// It does not, and why.
    Failed(String),
    /// It says nothing here, and why.
    Skipped(String),
}

/// One case and its verdict, as a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// One word, named for the property it shows.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
}

impl Case {
    /// Reads a line of a guest's output. `None` when it does not report a case; a case whose verdict is
    /// missing or in other words has failed.
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix(OPENING)?;
        let (name, verdict) = rest.split_once(BETWEEN.trim_end())?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        Some(Self { name: name.to_owned(), verdict: Verdict::parse(verdict.trim()) })
    }
}

impl Verdict {
    fn parse(words: &str) -> Self {
        if words == "ok" {
            return Self::Ok;
        }
        if let Some(why) = words.strip_prefix("skipped") {
            return Self::Skipped(why.trim_start_matches([':', ' ']).to_owned());
        }
        if let Some(why) = words.strip_prefix("FAILED") {
            return Self::Failed(why.trim_start_matches([':', ' ']).to_owned());
        }
        Self::Failed(match words {
            "" => "ended without a verdict".to_owned(),
            _ => format!("no verdict but {words:?}"),
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", opening(&self.name), self.verdict)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(line: &str) -> Option<Verdict> {
        Case::parse(line).map(|case| case.verdict)
    }

    #[test]
    fn each_form_of_words_is_understood() {
        let case = Case::parse("case r6_read_only ... ok\r").unwrap();
        assert_eq!((case.name.as_str(), case.verdict), ("r6_read_only", Verdict::Ok));
        let failed = Verdict::Failed("fault has no address".into());
        assert_eq!(verdict("case a ... FAILED: fault has no address"), Some(failed));
        assert_eq!(verdict("case a ... skipped: no QI"), Some(Verdict::Skipped("no QI".into())));
    }

    #[test]
    fn a_case_without_a_verdict_has_failed() {
        for line in
            ["case a ...", "case a ... ", "case a ... o", "case a ... okay", "case a ... OK"]
        {
            assert!(matches!(verdict(line), Some(Verdict::Failed(_))), "{line:?}");
        }
    }

    #[test]
    fn other_lines_are_no_cases() {
        for line in ["", "case", "case ", "case ... ok", "in case of fire ... ok", "case a: ok"] {
            assert_eq!(Case::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for verdict in
            [Verdict::Ok, Verdict::Failed("x ... y".into()), Verdict::Skipped("z".into())]
        {
            let case = Case { name: "name".into(), verdict };
            assert_eq!(Case::parse(&case.to_string()), Some(case));
        }
    }
}
