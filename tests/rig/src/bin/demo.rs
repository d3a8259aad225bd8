//! The demo: a driver that is confined, on a simulated machine, with nothing to install.
//!
//! It starts the real `iommud` and `edud`, each as a process of its own, lets the driver work and then
//! misbehave, and shows what `iommuctl` says. Whatever it claims it has checked: it exits with 0 only if data
//! moved, through an I/O address that is not the physical one, and the transfer outside was blocked and
//! reported with device, address and direction, and libdma's checker named each mistake that a driver made.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{env, fs, process};

use agent::process::{Finished, Process, run};
use rig::cargo::{cargo, diagnostics, executables};
use serde_json::Value;

/// The simulated device's vendor and device, as `iommuctl devices` has them.
const EDU: &str = "1234:11e8";

const BUILD_LIMIT: Duration = Duration::from_secs(900);
const LIMIT: Duration = Duration::from_secs(30);

/// Why the demo did not show what it should.
struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

type Outcome<T = ()> = Result<T, Failure>;

fn check(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(Failure(otherwise.into())) }
}

fn main() -> ExitCode {
    let unit = match parse(env::args().skip(1)) {
        Ok(unit) => unit,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    match demo(&unit) {
        Ok(()) => {
            println!(
                "\nAll of this was checked: data moved, the addresses differ, the stray write was"
            );
            println!(
                "blocked, and the report names the device, the address and the direction. Each"
            );
            println!("mistake with memory was named, with the lines that made it.");
            println!("The machine was simulated. `tests/run` shows the same on QEMU's IOMMU.");
            ExitCode::SUCCESS
        }
        Err(Failure(why)) => {
            println!("\nThe demo FAILED: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The kind of unit to simulate, as iommud calls it.
fn parse(mut words: impl Iterator<Item = String>) -> Result<String, String> {
    let usage = "usage: cargo run --release --bin demo [-- --unit vtd|amdvi]";
    let unit = match (words.next().as_deref(), words.next()) {
        (None, _) => "vtd".into(),
        (Some("--unit"), Some(unit)) if ["vtd", "amdvi"].contains(&&*unit) => unit,
        _ => return Err(usage.into()),
    };
    if words.next().is_some() { Err(usage.into()) } else { Ok(unit) }
}

/// The programs, and where they meet.
struct Stage {
    programs: Vec<PathBuf>,
    folder: PathBuf,
}

impl Stage {
    fn new() -> Outcome<Self> {
        println!("Building iommud, iommuctl and edud …");
        let programs = build()?;
        let folder = env::temp_dir().join(format!("iommud-demo-{}", process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self { programs, folder })
    }

    fn command(&self, name: &str, words: &[&str]) -> Outcome<Command> {
        let named = |path: &&PathBuf| path.file_stem().is_some_and(|stem| stem == name);
        let program = self.programs.iter().find(named);
        let program = program.ok_or(Failure(format!("cargo built no {name}")))?;
        let mut command = Command::new(program);
        command.args(words).env("IOMMUD_SOCKET", self.folder.join("socket"));
        Ok(command)
    }

    /// Runs a program to its end, and shows what it says.
    fn show(&self, name: &str, words: &[&str]) -> Outcome<Finished> {
        println!("  $ {name} {}", words.join(" "));
        let process = Process::start(self.command(name, words)?)?;
        Ok(process.finish(LIMIT, say)?)
    }

    /// What a report says, for checking.
    fn report(&self, name: &str) -> Outcome<Vec<Value>> {
        let finished = run(self.command("iommuctl", &[name, "--json"])?, LIMIT)?;
        check(finished.status.success(), &format!("iommuctl {name} --json failed"))?;
        Ok(serde_json::from_str(&finished.lines.join("\n"))?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What is left is a socket that nobody listens at.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Builds the programs as the demo itself was built.
fn build() -> Outcome<Vec<PathBuf>> {
    let mut command = cargo();
    command.args(["build", "--bins", "--package", "iommud", "--package", "edud"]);
    command.arg("--message-format=json-render-diagnostics");
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let finished = run(command, BUILD_LIMIT)?;
    if !finished.status.success() {
        diagnostics(finished.lines).iter().for_each(|line| say(line));
        return Err(Failure("the programs cannot be built".into()));
    }
    Ok(executables(&finished.lines))
}

fn say(line: &str) {
    println!("  │ {line}");
}

fn heading(text: &str) {
    println!("\n── {text}");
}

fn demo(unit: &str) -> Outcome {
    let stage = Stage::new()?;
    heading("iommud owns the IOMMU of a simulated machine");
    println!("  $ iommud --sim --unit {unit}");
    let mut daemon = Process::start(stage.command("iommud", &["--sim", "--unit", unit])?)?;
    let ready = daemon.wait_line("iommud: ready", LIMIT);
    daemon.seen().iter().for_each(|line| say(line));
    ready?;

    heading("A driver copies data to its device and back");
    let worked = stage.show("edud", &["--sim", "--rounds", "2"])?;
    let intact = worked.lines.iter().filter(|line| line.ends_with("intact")).count();
    check(worked.status.success() && intact == 2, "the data did not come back as it was sent")?;

    heading("Meanwhile: what the device sees is not where memory is");
    show_mappings(&stage)?;

    check(stage.report("faults")?.is_empty(), "something was blocked that should not be")?;
    heading("The driver misbehaves: its device writes to memory that was taken back");
    let rogue = stage.show("edud", &["--sim", "--rogue", "write"])?;
    let verdict = rogue.lines.iter().find(|line| line.contains("rogue write"));
    let verdict = verdict.ok_or(Failure("the rogue driver says nothing".into()))?;
    check(rogue.status.success() && verdict.contains(": blocked"), "the write went through")?;
    let address = verdict.split([' ', ':']).find(|word| word.starts_with("0x"));
    let address = address.ok_or(Failure("the rogue driver names no address".into()))?;
    stage.show("iommuctl", &["faults"])?;
    check_fault(&stage, address)?;

    heading(
        "A driver that makes mistakes with its memory is told of each, with the places in its code",
    );
    show_mistakes(&stage)
}

/// Shows the reports while a driver works, and checks that its addresses are not physical ones.
fn show_mappings(stage: &Stage) -> Outcome {
    let mut driver = Process::start(stage.command("edud", &["--sim", "--hold"])?)?;
    driver.wait_line("holding", LIMIT)?;
    for report in ["units", "devices", "domains", "mappings"] {
        stage.show("iommuctl", &[report])?;
    }
    let mappings = stage.report("mappings")?;
    check(!mappings.is_empty(), "the driver holds a buffer, and nothing is mapped")?;
    let same = mappings.iter().any(|mapping| mapping["iova"] == mapping["physical"]);
    check(!same, "an I/O address is the physical one")
    // The driver is killed here, in the middle of its work: what it held ends with it.
}

/// Shows what libdma's checker says of a driver that makes mistakes on purpose, and checks that it names each.
fn show_mistakes(stage: &Stage) -> Outcome {
    println!("  $ LIBDMA_CHECK=1 edud --sim --misuse");
    let mut edud = stage.command("edud", &["--sim", "--misuse"])?;
    edud.env("LIBDMA_CHECK", "1");
    let clumsy = Process::start(edud)?.finish(LIMIT, |line| {
        if line.starts_with("libdma: ") {
            say(line);
        }
    })?;
    let all = |of| clumsy.lines.iter().filter_map(|it| it.strip_prefix(of)).collect::<Vec<_>>();
    let (made, named) = (all("mistake: "), all("libdma: "));
    check(clumsy.status.success() && made.len() > 1, "the clumsy driver made no mistakes")?;
    let is_named = |(made, said): (&&str, &&str)| {
        made.split_once(": ").is_some_and(|(name, places)| {
            said.starts_with(name) && places.split(", ").all(|place| said.contains(place))
        })
    };
    let each = made.len() == named.len() && made.iter().zip(&named).all(is_named);
    check(each, "a mistake was not named, or with other places")
}

/// Checks that the fault is reported with device, address and direction.
fn check_fault(stage: &Stage, address: &str) -> Outcome {
    let page =
        |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok().map(|at| at >> 12);
    let devices = stage.report("devices")?;
    let edu = devices.iter().find(|device| device["id"] == EDU);
    let edu = edu.ok_or(Failure("iommud knows of no edu device".into()))?;
    let faults = stage.report("faults")?;
    let found = faults.iter().any(|fault| {
        fault["device"] == edu["device"]
            && fault["tried"] == "write"
            && fault["address"].as_str().and_then(page) == page(address)
    });
    check(found, "the blocked write is not in the report")?;
    let leftovers = stage.report("mappings")?;
    check(leftovers.is_empty(), "something is still mapped after the drivers have gone")
}
