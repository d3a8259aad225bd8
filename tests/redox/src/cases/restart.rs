//! iommud that dies: its keeper starts it again, and what was held before is cut off and comes back.

use agent::failure::{Failure, Outcome, require};
use agent::programs::{run, wait_until};
use agent::reports;
use agent::signal::{Signal, send};

use crate::machine::Machine;
use crate::processes::Processes;

const DEATHS: u32 = 3;

pub(super) fn again() -> Outcome {
    let bench = Machine::bench()?;
    for death in 1..=DEATHS {
        // A driver whose device is at work all the while.
        let driver = bench.hold()?;
        let served = serving()?;
        send(served, Signal::Kill)?;
        wait_until("another iommud serves", || {
            let another = Processes::now().of("iommud").last().is_some_and(|last| *last != served);
            Ok(another && run("iommuctl", &["units"])?.code == Some(0))
        })?;
        for unit in reports::units()? {
            require!(
                unit.state == "translating",
                "after death {death}, {} is {}",
                unit.kind,
                unit.state
            );
            let found = unit.abilities.is_some_and(|abilities| abilities.found_translating);
            require!(found, "after death {death}, the unit was not translating any more");
        }
        let device = reports::device(&bench.device)?;
        require!(device.state == "free", "after death {death}, the device is {}", device.state);
        let mappings = reports::mappings()?;
        require!(mappings.is_empty(), "after death {death}, {mappings:x?} are mapped");
        drop(driver);
        let next = bench.edud(&["--rounds", "1"])?.expect(0)?;
        require!(next.line("round 1/1")?.ends_with("intact"), "the data is not intact");
    }
    let started = reports::setting("started")?;
    require!(started.starts_with("again"), "it was started {started}");
    Ok(())
}

/// The process that serves: the keeper started it, so that it is the younger one.
fn serving() -> Outcome<u32> {
    let all = Processes::now().of("iommud");
    match all[..] {
        [_keeper, .., last] => Ok(last),
        _ => {
            Err(Failure(format!("iommud are the processes {all:?}, and not a keeper and another")))
        }
    }
}
