//! The programs under test, as processes.

pub(crate) use agent::programs::{End, Program, run, run_as_nobody, wait_until};

use crate::failure::Outcome;

/// Starts iommud, and waits until it serves.
pub(crate) fn start_iommud() -> Outcome<Program> {
    start_iommud_with(&[])
}

/// The same with these arguments.
pub(crate) fn start_iommud_with(arguments: &[&str]) -> Outcome<Program> {
    let mut iommud = Program::start("iommud", arguments)?;
    iommud.wait_line("iommud: ready")?;
    Ok(iommud)
}
