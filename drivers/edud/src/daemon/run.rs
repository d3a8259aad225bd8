//! From the command line to the exit code.

use std::io::Write;
use std::process::ExitCode;

use driver_platform::{report_ready, wait_readable};

use super::asking::Asking;
use super::claim::Claim;
use super::error::Error;
use super::options::Options;
use super::{buffers, copy, denied, hold, misuse, over_map, pass, registered, rogue, traffic};

/// How a job that could be done went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Well,
    /// What should have been refused or blocked went through.
    WentThrough,
    /// Another process did it, and ended with this code.
    Passed(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Well => Self::SUCCESS,
            Outcome::WentThrough => Self::from(3),
            Outcome::Passed(code) => Self::from(code),
        }
    }
}

/// Does what the command line says, and reports on `out`.
///
/// # Errors
///
/// Whatever keeps the job from being done.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<Outcome, Error> {
    let claim = Claim::new(options)?;
    if !options.pass_to.is_empty() {
        return pass::pass_to(claim, &options.pass_to);
    }
    let mut driver = claim.drive()?;
    report_ready()?;
    let device = driver.device();
    writeln!(
        out,
        "edud: {} in domain {} (session {}), I/O addresses up to {}{}",
        device.address(),
        device.domain(),
        device.generation(),
        device.highest_address(),
        if device.is_confined() { "" } else { ": NOT CONFINED, this machine has no IOMMU" }
    )?;
    if let Some(kind) = options.rogue {
        let verdict = rogue::run(&mut driver, kind, options.address)?;
        writeln!(out, "{verdict}")?;
        if verdict.went_through {
            return Ok(Outcome::WentThrough);
        }
        denied::report(driver.device(), wait_readable, out)?;
        return Ok(Outcome::Well);
    }
    if options.over_map {
        return over_map::run(&driver, out);
    }
    if options.buffers {
        buffers::run(&mut driver, out)?;
        return Ok(Outcome::Well);
    }
    if options.misuse {
        misuse::run(&mut driver, wait_readable, out)?;
        return Ok(Outcome::Well);
    }
    if options.registered {
        return registered::run(&mut driver, out);
    }
    if options.hold {
        let never = hold::run(&mut driver, out)?;
        match never {}
    }
    if let Some(seed) = options.traffic {
        let never = traffic::run(&mut driver, seed, out)?;
        match never {}
    }
    let mut asking = match options.asking {
        true => Some(Asking::begin(driver.device())?),
        false => None,
    };
    copy::run(&mut driver, options.rounds, out, |out| match &mut asking {
        Some(asking) => asking.tell(out),
        None => Ok(()),
    })?;
    Ok(Outcome::Well)
}
