//! `tests/run`: runs the suites named on the command line, or all of them.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use rig::report::Report;
use rig::suite::{SUITES, shell};

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &names[..]
        && first == "shell"
    {
        return match shell(rest.first().map_or("vtd", String::as_str)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    if let [first, rest @ ..] = &names[..]
        && first == "fuzz"
    {
        return rig::fuzz::run(rest.first().map(String::as_str));
    }
    if let [first, rest @ ..] = &names[..]
        && first == "bench"
    {
        return rig::bench::run(rest);
    }
    if names.iter().any(|name| SUITES.iter().all(|suite| suite.name != name)) {
        eprintln!(
            "usage: tests/run [SUITE]...   or   tests/run shell [vtd|amdvi|none]   or   tests/run fuzz [STEPS]\n   or   tests/run bench [--ours] [--ipc] [--redox] [--memory] [--markdown[=FILE]] [--json[=FILE]]\n\nSuites (default: all):"
        );
        for suite in &SUITES {
            eprintln!("  {}  {}", suite.name, suite.about);
        }
        return ExitCode::from(2);
    }
    let mut report = Report::new();
    for suite in &SUITES {
        if names.is_empty() || names.iter().any(|name| name == suite.name) {
            suite.run(&mut report);
        }
    }
    if report.end() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
