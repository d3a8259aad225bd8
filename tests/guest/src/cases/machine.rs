//! What the programs will need of the machine is there: devices, tables, registers, memory.

use std::process::Command;
use std::time::Duration;

use crate::failure::{Outcome, require};
use crate::huge_pages::{HUGE_PAGE, HugePages};
use crate::unit::Unit;
use crate::{devices, dma, physical};
use agent::process::run;
use edud::Direction;

/// `edu`'s registers (QEMU `docs/specs/edu.rst`): what it is, and one that gives back the inverse of
/// what was written to it.
const EDU_IDENTIFICATION: usize = 0x00;
const EDU_LIVENESS: usize = 0x04;

pub(super) fn busybox_runs() -> Outcome {
    let mut echo = Command::new("/bin/sh");
    echo.args(["-c", "echo $((6 * 7))"]);
    let end = run(echo, Duration::from_secs(5))?;
    require!(end.lines == ["42"], "sh says {:?}", end.lines);
    Ok(())
}

pub(super) fn edu_answers_on_bar0() -> Outcome {
    let edus = devices::edus()?;
    require!(edus.len() == 2, "{} edu devices instead of 2", edus.len());
    for edu in edus {
        let bar = edu.bar0()?;
        let identification = bar.read32(EDU_IDENTIFICATION)?;
        require!(identification & 0xffff == 0x00ed, "{}: is {identification:#x}", edu.name());
        bar.write32(EDU_LIVENESS, 0x1234_5678)?;
        let inverse = bar.read32(EDU_LIVENESS)?;
        require!(inverse == !0x1234_5678, "{}: gives back {inverse:#x}", edu.name());
    }
    Ok(())
}

pub(super) fn unit_registers_map() -> Outcome {
    Unit::find()?.check()
}

pub(super) fn huge_page_has_an_address() -> Outcome {
    let pages = HugePages::new(1)?;
    let first = pages.first();
    require!(first.is_multiple_of(HUGE_PAGE as u64), "a huge page at {first:#x}");
    let last = physical::address_of(pages.map().address() + HUGE_PAGE - 4096)?;
    require!(last - first == HUGE_PAGE as u64 - 4096, "from {first:#x} to {last:#x}");
    Ok(())
}

/// The hole that all the rest is about. It also shows that transfers made by the agent do move data, so that
/// where they later move none, they were blocked.
pub(super) fn without_iommud_devices_reach_all_memory() -> Outcome {
    for edu in devices::both_edus()? {
        let pages = HugePages::new(2)?;
        let &[from, to] = pages.physical() else { return Ok(()) };
        dma::transfer(&edu, Direction::ToDevice, from, 8)?;
        dma::transfer(&edu, Direction::FromDevice, to, 8)?;
        let (sent, got) = (pages.map().read64(0)?, pages.map().read64(HUGE_PAGE)?);
        require!(got == sent, "{}: {got:#x} instead of {sent:#x}", edu.name());
    }
    Ok(())
}
