//! Requests to the real iommud, a process in the Linux guest of t2, from a driver that is another process, beside
//! messages as long between two processes that do nothing; all in one boot, on one processor, so that nobody else runs.

use std::process::Command;
use std::time::Duration;

use crate::bench::column::Column;
use crate::bench::figures::Figures;
use crate::bench::{CPU, TIME};
use crate::cargo::{Failure, scratch_dir};
use crate::qemu::{self, Qemu};
use crate::suite::guest::{COMMAND_LINE, Contents};
use crate::suite::metal::EDU;
use agent::process::run;

const MEMORY: &str = "1G";

/// It takes about a minute.
const BOOT_LIMIT: Duration = Duration::from_secs(900);

/// What the agent says when it has told everything.
const DONE: &str = "bench done";

/// Boots it on the machine of this column.
pub(super) fn measure(
    qemu: &Qemu,
    contents: &Contents,
    column: Column,
) -> Result<Figures, Failure> {
    let mut machine = qemu::machine(MEMORY);
    machine.args(["-cpu", CPU, "-icount", TIME]);
    machine.arg("-kernel").arg(&contents.kernel).arg("-initrd").arg(&contents.initramfs);
    machine.arg("-append").arg(format!("{COMMAND_LINE} mitigations=off -- bench"));
    for device in column.iommu().device(qemu).iter().map(String::as_str).chain([EDU]) {
        machine.args(["-device", device]);
    }
    let words = |whose| scratch_dir().join(format!("bench-{}-{whose}.log", column.name()));
    machine.arg("-serial").arg(format!("file:{}", words("console").display()));
    machine.args(["-serial", "stdio"]);
    told(qemu::with_words_in(&machine, &words("requests-qemu")), column, BOOT_LIMIT)
}

/// What an agent tells until it is done.
pub(super) fn told(agent: Command, column: Column, limit: Duration) -> Result<Figures, Failure> {
    let end = run(agent, limit);
    let lines = match &end {
        Ok(end) => &end.lines,
        Err(error) => error.lines(),
    };
    let fault = match &end {
        Err(error) => Some(error.to_string()),
        Ok(end) if !end.status.success() => Some(end.status.to_string()),
        Ok(_) if !lines.iter().any(|line| line.trim() == DONE) => {
            Some("the agent did not come to its end".into())
        }
        Ok(_) => None,
    };
    match fault {
        Some(why) => {
            Err(Failure { why: format!("{}: {why}", column.name()), lines: lines.to_vec() })
        }
        None => Ok(Figures::read(lines)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(script: &str) -> Result<Figures, Failure> {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        told(shell, Column::AmdVi, Duration::from_secs(20))
    }

    #[test]
    fn figures_are_those_of_an_agent_that_came_to_its_end() {
        let figures = of("echo bench x 1 2 3 4; echo bench done").unwrap();
        assert!(figures.get("x").is_some_and(|it| it.make == 1 && it.undo_mean == 4));
        let why = |script| of(script).unwrap_err().why;
        assert!(why("echo bench x 1 2 3 4").contains("amdvi: the agent did not come"));
        assert!(why("echo bench done; exit 3").contains('3'));
    }
}
