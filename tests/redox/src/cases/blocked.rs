//! Accesses that must be blocked, and be reported with device, address and direction. Where the unit tells nothing of
//! what it blocks, which QEMU's AMD-Vi does not before version 11, only the data shows it: nothing moved.

use agent::bench::{PAGE, address_of};
use agent::failure::{Outcome, require};
use agent::programs::wait_until;
use agent::reports::{self, wait_for_fault};

use crate::machine::Machine;

pub(super) fn read() -> Outcome {
    Machine::bench()?.is_blocked("read", "read", 0, &[]).map(drop)
}

pub(super) fn write() -> Outcome {
    Machine::bench()?.is_blocked("write", "write", 0, &[]).map(drop)
}

/// The transfer starts in the page that is mapped, and what is blocked is the rest of it.
pub(super) fn past_the_end() -> Outcome {
    Machine::bench()?.is_blocked("past-the-end", "write", PAGE, &[]).map(drop)
}

pub(super) fn read_only() -> Outcome {
    Machine::bench()?.is_blocked("read-only", "write", 0, &[]).map(drop)
}

pub(super) fn write_only() -> Outcome {
    Machine::bench()?.write_only_is_blocked_or_refused()
}

pub(super) fn after_free() -> Outcome {
    Machine::bench()?.is_blocked("after-free", "read", 0, &[]).map(drop)
}

/// Each unit interrupts, so that iommud need not look for faults; and it does so again when one has been seen.
pub(super) fn interrupts() -> Outcome {
    let bench = Machine::bench()?;
    for unit in reports::units()? {
        let how = unit.abilities.map(|abilities| abilities.faults);
        require!(how.as_deref() == Some("interrupt"), "{}: how faults come is {how:?}", unit.kind);
    }
    for _ in 0..2 {
        let before = fault_interrupts()?;
        bench.is_blocked("read", "read", 0, &[])?;
        let come = || Ok(!bench.tells || fault_interrupts()? > before);
        wait_until("it has interrupted", come)?;
    }
    Ok(())
}

/// How many have come so far.
fn fault_interrupts() -> Outcome<u64> {
    Ok(reports::setting("fault interrupts")?.parse()?)
}

pub(super) fn over_map() -> Outcome {
    Machine::bench()?.more_than_a_buffer_is_refused()
}

/// A driver knows where another's memory is, and gives that address to its device.
pub(super) fn physical() -> Outcome {
    let (bench, other) = (Machine::bench()?, Machine::second_bench()?);
    let driver = other.hold()?;
    let place = reports::mapping("edud hold out")?.physical;
    let address = format!("{place:#x}");
    let rogue = ["--dma-mask", "64", "--rogue", "physical", "--address", &address];
    let blocked = address_of(&bench.edud(&rogue)?.expect(0)?)?;
    require!(blocked == place, "it was {blocked:#x} and not {place:#x} that was blocked");
    wait_for_fault(bench.tells, &bench.device, "read", place)?;
    driver.kill()
}
