//! `tests/run bench`: what operations take, ours beside Linux's, counted in guest instructions on the same emulated units.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `column` | the machines, and what was measured on each |
//! | `figures` | what a guest tells of what it counted |
//! | `linux` | Linux with a module of ours in it, built and booted |
//! | `ours` | our bare guest, built and booted |
//! | `requests` | requests to iommud's process in the Linux guest of t2 |
//! | `redox` | the same on a booted Redox |
//! | `memory` | how much memory iommud's process holds |
//! | `rows` | the rows of the table: what is compared with what, and the targets |
//! | `table` | the table, for a terminal and in Markdown |
//! | `json` | the same for programs |
//!
//! Under `-icount shift=0,sleep=off` the processor's counter counts instructions: medians repeat to the digit, whatever
//! else the host does.

mod column;
mod figures;
mod json;
mod linux;
mod memory;
mod ours;
mod redox;
mod requests;
mod rows;
mod table;

use std::fs;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use crate::bench::column::{Column, Measured};
use crate::bench::rows::{Part, contradicted, missing};
use crate::bench::table::{Form, table};
use crate::cargo::{Failure, root, scratch_dir};
use crate::debian::install;
use crate::qemu::{self, Qemu};
use crate::suite::guest::Contents;
use crate::suite::metal;
use agent::process::run as run_process;

/// Time is the number of instructions, and nothing waits for the host's.
const TIME: &str = "shift=0,sleep=off";

/// How many Linux guests run at once: what they count does not depend on what else the host does.
const AT_ONCE: usize = 2;

/// What Linux's version is called.
const LINUX: &str = "Linux";

/// The processor of both sides: with `rdrand`, but without fast string instructions. Linux would fill and copy memory by
/// bytes with them, each of which is counted as an instruction.
const CPU: &str = "max,-erms,-fsrm";

const USAGE: &str =
    "usage: tests/run bench [--ours] [--ipc] [--redox] [--memory] [--markdown[=FILE]] [--json[=FILE]]

  --ours      operations in the bare guest alone: some seconds instead of some minutes
  --ipc       requests to iommud's process in the Linux guest alone
  --redox     those on the Redox image that REDOX_BENCH_IMAGE names alone; without it, they are left out of the whole
  --memory    memory of iommud's process alone
  --markdown  the table as README quotes it, instead of the one for terminals
  --json      all figures, for programs
  =FILE       into this file, named from the workspace's root, and the table besides";

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    /// What is measured of our side. All of it if nothing is said, and Linux then, too.
    parts: Vec<Part>,
    /// What is printed.
    form: Form,
    /// What is written to files.
    files: Vec<(Form, PathBuf)>,
}

impl Options {
    fn parse(words: &[String]) -> Option<Self> {
        let mut options = Self { parts: Vec::new(), form: Form::Terminal, files: Vec::new() };
        for word in words {
            let (name, file) = match word.split_once('=') {
                Some((name, file)) => (name, Some(file)),
                None => (word.as_str(), None),
            };
            let part = match (name, file) {
                ("--ours", None) => Some(Part::Operations),
                ("--ipc", None) => Some(Part::Requests),
                ("--redox", None) => Some(Part::Redox),
                ("--memory", None) => Some(Part::Memory),
                _ => None,
            };
            if let Some(part) = part {
                options.parts.push(part);
                continue;
            }
            let form = match (name, file) {
                ("--markdown", _) => Form::Markdown,
                ("--json", _) => Form::Json,
                _ => return None,
            };
            match file {
                Some("") => return None,
                Some(file) => options.files.push((form, file.into())),
                None if options.form == Form::Terminal => options.form = form,
                None => return None,
            }
        }
        Some(options)
    }

    /// What is measured of our side, with or without an image of Redox.
    fn measured(&self, with_redox: bool) -> Vec<Part> {
        if !self.with_linux() {
            return self.parts.clone();
        }
        Part::ALL.into_iter().filter(|part| with_redox || *part != Part::Redox).collect()
    }

    /// Whether Linux is measured.
    fn with_linux(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Measures, and prints the table.
pub fn run(words: &[String]) -> ExitCode {
    let Some(options) = Options::parse(words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let parts = options.measured(redox::image().is_some());
    match measure(&options, &parts).and_then(|measured| show(&measured, &options, &parts)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { why, lines }) => {
            lines.iter().for_each(|line| eprintln!("| {line}"));
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn show(measured: &Measured, options: &Options, parts: &[Part]) -> Result<(), Failure> {
    let missing = || missing(measured, parts, options.with_linux());
    if let Some(why) = contradicted(measured).or_else(missing) {
        return Err(Failure { why, lines: Vec::new() });
    }
    print!("{}", table(measured, options.form));
    for (form, file) in &options.files {
        fs::write(file, table(measured, *form)).map_err(|error| Failure {
            why: format!("{}: {error}", file.display()),
            lines: Vec::new(),
        })?;
    }
    Ok(())
}

fn measure(options: &Options, parts: &[Part]) -> Result<Measured, Failure> {
    install(&[qemu::NEED])?;
    let qemu = Qemu::find().map_err(|why| Failure { why, lines: Vec::new() })?;
    fs::create_dir_all(scratch_dir())?;
    let mut measured = Measured::default();
    measured.versions = vec![("ours", commit()), ("Rust", rust()), ("QEMU", qemu.line.clone())];
    measure_ours(&mut measured, &qemu, parts)?;
    if options.with_linux() {
        if !parts.contains(&Part::Redox) {
            eprintln!("{} names no image: requests on Redox are not measured", redox::VARIABLE);
        }
        measure_linux(&mut measured, &qemu)?;
    }
    Ok(measured)
}

fn measure_ours(measured: &mut Measured, qemu: &Qemu, parts: &[Part]) -> Result<(), Failure> {
    let columns = || Column::ALL.into_iter().filter(|it| !it.is_linux());
    if parts.contains(&Part::Operations) {
        eprintln!("building the bare guest");
        let image = metal::image()?;
        for column in columns() {
            eprintln!("measuring {}", column.name());
            measured.put(column, ours::measure(qemu, &image, column)?);
        }
    }
    for column in columns().filter(|_| parts.contains(&Part::Redox)) {
        eprintln!("measuring requests on Redox, {}", column.name());
        measured.put(column, redox::measure(qemu, column)?);
    }
    if !parts.iter().any(|part| matches!(part, Part::Requests | Part::Memory)) {
        return Ok(());
    }
    eprintln!("building the Linux guest");
    let contents = Contents::build()?;
    for column in columns() {
        if parts.contains(&Part::Requests) {
            eprintln!("measuring requests, {}", column.name());
            measured.put(column, requests::measure(qemu, &contents, column)?);
        }
        if parts.contains(&Part::Memory) {
            eprintln!("measuring memory, {}", column.name());
            measured.put(column, memory::measure(&contents.programs, column)?);
        }
    }
    Ok(())
}

fn measure_linux(measured: &mut Measured, qemu: &Qemu) -> Result<(), Failure> {
    eprintln!("building Linux's module");
    let guest = linux::Guest::build()?;
    for boots in linux::BOOTS.chunks(AT_ONCE) {
        let told: Vec<_> = thread::scope(|scope| {
            let start = |boot: &'static linux::Boot| {
                eprintln!("measuring {}", boot.column.name());
                scope.spawn(|| (boot.column, guest.measure(qemu, *boot)))
            };
            let started: Vec<_> = boots.iter().map(start).collect();
            started.into_iter().map(|it| it.join().unwrap_or_else(|it| resume_unwind(it))).collect()
        });
        for (column, told) in told {
            let (figures, version) = told?;
            measured.put(column, figures);
            if measured.versions.iter().all(|(name, _)| *name != LINUX) {
                measured.versions.push((LINUX, version));
            }
        }
    }
    Ok(())
}

/// The commit that is measured, and whether something is different from it.
fn commit() -> String {
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(root()).args(words);
        let end = run_process(command, Duration::from_secs(10)).ok()?;
        end.status.success().then_some(end.lines)
    };
    let name = git(&["rev-parse", "--short=12", "HEAD"]).and_then(|lines| lines.first().cloned());
    let Some(name) = name else { return "of no commit".into() };
    let clean = git(&["status", "--porcelain"]).is_some_and(|lines| lines.is_empty());
    if clean { name } else { format!("{name} and changes") }
}

/// The compiler of our side, but for what is in the image of Redox.
fn rust() -> String {
    let mut command = Command::new("rustc");
    command.current_dir(root()).arg("--version");
    let end = run_process(command, Duration::from_secs(10)).ok();
    end.and_then(|end| end.lines.into_iter().next()).unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_ones() {
        let parse = |words: &[&str]| {
            Options::parse(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>())
        };
        let options = |parts: &[Part], form, files: &[(Form, &str)]| {
            let files = files.iter().map(|(form, file)| (*form, file.into())).collect();
            Some(Options { parts: parts.to_vec(), form, files })
        };
        assert_eq!(parse(&[]), options(&[], Form::Terminal, &[]));
        let all = |with_redox| parse(&[]).map_or(Vec::new(), |it| it.measured(with_redox));
        assert!(parse(&[]).is_some_and(|it| it.with_linux()) && all(true) == Part::ALL);
        assert_eq!(all(false), [Part::Operations, Part::Requests, Part::Memory]);
        let redox = [Part::Redox];
        assert!(parse(&["--redox"]).is_some_and(|it| it.measured(false) == redox));
        let ours = options(&[Part::Operations], Form::Json, &[]);
        assert_eq!(parse(&["--ours", "--json"]), ours);
        assert!(ours.is_some_and(|it| !it.with_linux() && it.measured(true) == [Part::Operations]));
        let two = [Part::Memory, Part::Requests];
        assert_eq!(parse(&["--memory", "--ipc"]), options(&two, Form::Terminal, &[]));
        let both = [(Form::Markdown, "a"), (Form::Json, "b=c")];
        assert_eq!(parse(&["--markdown=a", "--json=b=c"]), options(&[], Form::Terminal, &both));
        for wrong in [
            &["--our"][..],
            &["--ours=x"],
            &["--ipc=x"],
            &["--json="],
            &["--json", "--markdown"],
            &["x"],
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
