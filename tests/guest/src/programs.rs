//! The programs under test, as processes.

pub(crate) use agent::programs::{End, Program, run, run_as_nobody, wait_until};

use agent::process::descendants;
use agent::signal::{Signal, send};

use crate::failure::{Failure, Outcome, require};

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

/// The process that serves: the keeper, which the tests start, has started it.
pub(crate) fn serving(iommud: &Program) -> Outcome<u32> {
    match descendants(iommud.id())[..] {
        [one] => Ok(one),
        ref all => Err(Failure(format!("the keeper's children are the processes {all:?}"))),
    }
}

/// Kills iommud so that nobody starts it again: the keeper first, while the other one sees nothing.
pub(crate) fn kill_iommud(iommud: Program) -> Outcome {
    let serves = serving(&iommud)?;
    send(serves, Signal::Stop)?;
    iommud.signal(Signal::Kill)?;
    send(serves, Signal::Kill)?;
    let end = iommud.finish()?;
    require!(end.code.is_none(), "it had ended before it was killed: {:?}", end.code);
    Ok(())
}
