//! The cases, one file for each part of the house.

mod machine;

use std::process::ExitCode;
use std::time::Duration;

use crate::failure::{Failure, Outcome};

/// A case: a name for the property, the time it may take, and what it does.
pub(crate) struct Spec {
    /// One word.
    pub(crate) name: &'static str,
    /// Time in the guest, which is much slower than its host.
    pub(crate) limit: Duration,
    run: fn() -> Outcome,
}

impl Spec {
    const fn new(name: &'static str, run: fn() -> Outcome) -> Self {
        Self { name, limit: Duration::from_secs(10), run }
    }
}

/// All cases, in the order in which they run.
pub(crate) const CASES: &[Spec] = &[
    Spec::new("busybox_runs", machine::busybox_runs),
    Spec::new("edu_answers_on_bar0", machine::edu_answers_on_bar0),
    Spec::new("dmar_is_readable", machine::dmar_is_readable),
    Spec::new("vtd_registers_map", machine::vtd_registers_map),
    Spec::new("huge_page_has_an_address", machine::huge_page_has_an_address),
];

/// Runs one case in this process. What it says on failure is the last line it writes.
pub(crate) fn run(name: &str) -> ExitCode {
    let Some(spec) = CASES.iter().find(|spec| spec.name == name) else {
        eprintln!("there is no case {name}");
        return ExitCode::from(2);
    };
    match (spec.run)() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(why)) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
