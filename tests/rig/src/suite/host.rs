//! t0: `cargo test`, and clippy, rustfmt and rustdoc with nothing to say.

use std::process::Command;
use std::time::Duration;

use crate::cargo::{cargo, root};
use crate::debian::{Need, install, on_path};
use crate::libtest;
use crate::report::Report;
use agent::process::{Finished, ProcessError, run as run_process};
use agent::tally::Tally;

/// A cold build of everything and all the tests take some minutes on two cores.
const LIMIT: Duration = Duration::from_secs(900);

/// Checks that pass or fail as one: name, arguments to cargo, and flags for rustdoc.
const CHECKS: [(&str, &[&str], &str); 4] = [
    ("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], ""),
    ("clippy metal", &["clippy", "-p", "metal", "--features", "image", "--", "-D", "warnings"], ""),
    ("rustfmt", &["fmt", "--all", "--check"], ""),
    ("rustdoc", &["doc", "--workspace", "--no-deps"], "-D warnings"),
];

/// With it, what our parsers make of real machines' tables is compared with what others do. Without it, that
/// test counts as skipped.
const DISASSEMBLER: Need = Need { package: "acpica-tools", present: || on_path("iasl") };

pub(super) fn run(report: &mut Report) {
    if let Err(error) = install(&[DISASSEMBLER]) {
        report.note(&format!("no comparison with iasl: {error}"));
    }
    tests(report);
    for (name, arguments, rustdoc_flags) in CHECKS {
        let mut command = cargo();
        command.args(arguments);
        if !rustdoc_flags.is_empty() {
            command.env("RUSTDOCFLAGS", rustdoc_flags);
        }
        check(report, name, command, LIMIT);
    }
}

/// One case that is a program which must end well.
pub(super) fn check(report: &mut Report, name: &str, command: Command, limit: Duration) {
    match run_process(command, limit) {
        Ok(end) if end.status.success() => report.passed(name),
        Ok(end) => {
            report.failed(name, &end.status.to_string());
            report.output(&end.lines);
        }
        Err(error) => {
            report.failed(name, &error.to_string());
            report.output(error.lines());
        }
    }
}

fn tests(report: &mut Report) {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    // What must not compile is to fail for the reason that it names.
    command.env("RUSTDOC", root().join("tests/rig/rustdoc"));
    count(report, run_process(command, LIMIT));
}

/// Counts what `cargo test` says of each program, and fails if it ended otherwise than they did.
pub(super) fn count(report: &mut Report, ended: Result<Finished, ProcessError>) {
    let (lines, ended) = match ended {
        Ok(end) if end.status.success() => (end.lines, None),
        Ok(end) => (end.lines, Some(end.status.to_string())),
        Err(error) => (error.lines().to_vec(), Some(error.to_string())),
    };
    let mut tally = Tally::default();
    for program in libtest::programs(&lines) {
        if program.tally.total() > 0 {
            report.counted(&program.name, program.tally);
        }
        for test in &program.failures {
            report.named_failure(&format!("{} {test}", program.name));
        }
        report.output(&program.output);
        if !program.finished {
            report.failed(&program.name, "ended without a result");
            tally.failed += 1;
        }
        tally += program.tally;
    }
    match ended {
        // Cargo fails because tests did, which has been told.
        Some(_) if tally.failed > 0 => {}
        Some(why) => {
            report.failed("cargo test", &why);
            report.output(&lines);
        }
        None if tally.passed == 0 => report.failed("cargo test", "not a single test was run"),
        None => {}
    }
}
