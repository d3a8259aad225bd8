//! iommuctl: what it writes, and its exit codes.

use agent::bench::faults;
use agent::failure::{Outcome, require};
use agent::programs::run;
use agent::reports;

use crate::machine::Machine;

pub(super) fn tables_and_json() -> Outcome {
    Machine::bench()?.reports_are_tables_and_json()
}

/// A plan is made from the machine itself, past iommud.
pub(super) fn plan() -> Outcome {
    let units = reports::units()?;
    let plan = run("iommuctl", &["plan"])?.expect(0)?;
    plan.line(&format!("iommud would use {0} of {0} unit", units.len()))?;
    for unit in units {
        let base = format!("{:#x}", unit.registers);
        require!(plan.line(&base)?.contains(&unit.kind), "the unit at {base} is another");
    }
    Ok(())
}

pub(super) fn exit_codes() -> Outcome {
    let bench = Machine::bench()?;
    run("iommuctl", &["unit"])?.expect(2)?;
    bench.edud(&["--rogue", "read"])?.expect(0)?;
    let check = run("iommuctl", &["faults", "--check"])?;
    if bench.tells {
        check.expect(4)?.line(" read ")?;
    } else if faults()? == 0 {
        check.expect(0)?.line("no access was blocked")?;
    }
    Ok(())
}
