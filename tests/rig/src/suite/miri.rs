//! miri: what safe code can do with DMA memory, under Miri, which sees each access that is wrong, over an iommud that is
//! made of heap memory; and those parts of libdma that need no iommud.

use std::process::Command;
use std::thread;
use std::time::Duration;

use agent::case::{Case, Verdict};
use agent::process::run as run_process;

use crate::cargo::{elsewhere, root, target_dir};
use crate::debian::is_root;
use crate::report::Report;
use crate::suite::host::count;

/// Programs of libdma's tests, each with flags for Miri. What is forgotten leaks, as it should: in `heap` that is
/// tried, and everywhere else a leak is an error.
const PROGRAMS: [(&[&str], &str); 2] =
    [(&["--lib"], ""), (&["--test", "heap"], "-Zmiri-ignore-leaks")];

/// Miri is in no other toolchain.
const TOOLCHAIN: &str = "nightly";

/// What Miri needs besides a compiler: itself, and the standard library's source.
const COMPONENTS: [&str; 2] = ["miri", "rust-src"];

/// A toolchain and its parts, from wherever rustup gets them.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

/// The build, Miri's own standard library included, takes a minute on two cores; the longer one of the programs two and a
/// half.
const LIMIT: Duration = Duration::from_secs(900);

pub(super) fn run(report: &mut Report) {
    match find() {
        Ok(version) => report.note(&version),
        Err(why) => {
            let verdict = Verdict::Skipped(why);
            return report.case(&Case { name: "miri".into(), verdict });
        }
    }
    thread::scope(|scope| {
        // Side by side: Miri runs all of a program's threads on one core.
        let running = PROGRAMS.map(|(program, flags)| {
            let mut command = test(flags);
            command.args(program);
            scope.spawn(|| run_process(command, LIMIT))
        });
        for (running, (program, _)) in running.into_iter().zip(PROGRAMS) {
            match running.join() {
                Ok(ended) => count(report, ended),
                Err(_) => report.failed(&program.join(" "), "the rig panicked"),
            }
        }
    });
}

/// The version of Miri, installed if it was missing and we are root; or why there is none.
fn find() -> Result<String, String> {
    if let Ok(version) = version() {
        return Ok(version);
    }
    let components = COMPONENTS.join(",");
    let install = ["toolchain", "install", TOOLCHAIN, "--profile", "minimal", "--component"];
    if !is_root() {
        return Err(format!("no Miri; run: rustup {} {components}", install.join(" ")));
    }
    println!("  installing Miri");
    let mut command = elsewhere("rustup");
    command.args(install).args([&components, "--no-self-update"]);
    let end = run_process(command, INSTALL_LIMIT).map_err(|error| no_miri(&error.to_string()))?;
    match end.status.success() {
        true => version().map_err(|why| no_miri(&why)),
        false => Err(no_miri(end.lines.last().map_or("rustup failed", String::as_str))),
    }
}

fn no_miri(why: &str) -> String {
    format!("no Miri: {why}")
}

fn version() -> Result<String, String> {
    let mut command = nightly();
    command.args(["miri", "--version"]);
    let end = run_process(command, Duration::from_secs(10)).map_err(|error| error.to_string())?;
    let last = end.lines.last().cloned().unwrap_or_default();
    if end.status.success() { Ok(last) } else { Err(last) }
}

/// libdma's tests under Miri. Cargo builds for it in a folder of its own, `miri`, below the target folder.
fn test(flags: &str) -> Command {
    let mut command = nightly();
    command.args(["miri", "test", "--package", "libdma", "--no-fail-fast"]);
    command.env("MIRIFLAGS", flags).env("CARGO_TARGET_DIR", target_dir());
    command
}

/// The cargo that can start Miri.
fn nightly() -> Command {
    let mut command = elsewhere("rustup");
    command.args(["run", TOOLCHAIN, "cargo"]);
    command.current_dir(root()).env("CARGO_TERM_COLOR", "never");
    command
}
