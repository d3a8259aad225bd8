//! All cases in a row, or one of them.

use std::process::{Command, ExitCode};

use agent::case::{Case, Verdict};
use agent::failure::Failure;
use agent::tally::Tally;

use crate::cases;
use crate::console::say;
use crate::machine::Machine;
use crate::needs::Check;
use crate::processes::Processes;

/// The case that stands for all others when the machine cannot be looked at.
const LOOK: &str = "the_machine_can_be_looked_at";

/// Runs all cases, and tells each one's verdict, and what it wrote if it did not hold.
pub(crate) fn all() -> ExitCode {
    let mut tally = Tally::default();
    match Machine::look() {
        Ok(machine) => {
            say(format_args!("iommu-selftest: {}", machine.found));
            for check in cases::of(&machine) {
                tally.count(&judge(check, &machine));
            }
        }
        Err(Failure(why)) => {
            let verdict = Verdict::Failed(why);
            tally.count(&verdict);
            say(Case { name: LOOK.into(), verdict });
        }
    }
    say(tally);
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one case in this process.
pub(crate) fn one(name: &str) -> ExitCode {
    match cases::all().find(|check| check.spec.name == name) {
        Some(check) => check.spec.run_here(),
        None => {
            eprintln!("there is no case {name}");
            ExitCode::from(2)
        }
    }
}

fn judge(check: &Check, machine: &Machine) -> Verdict {
    let (verdict, lines) = match check.is_missing(machine) {
        Some(why) => (Verdict::Skipped(why), Vec::new()),
        None => {
            let before = Processes::now();
            let outcome = check.spec.run_apart(myself());
            before.end_drivers_since();
            outcome
        }
    };
    say(Case { name: check.spec.name.into(), verdict: verdict.clone() });
    for line in lines {
        say(format_args!("  | {line}"));
    }
    verdict
}

/// This program once more. What init gave it to report to init with is not for others: an iommud that is started by
/// hand would take it for its own.
pub(crate) fn myself() -> Command {
    let name = std::env::args_os().next().unwrap_or_else(|| "iommu-selftest".into());
    let mut command = Command::new(name);
    command.env_remove("INIT_NOTIFY");
    command
}
