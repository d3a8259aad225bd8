//! iommud that dies: its keeper starts it again, and that one adopts what it left, while a device is at work.

use std::thread;
use std::time::{Duration, Instant};

use agent::failure::{Failure, Outcome, require};
use agent::programs::{Program, run, wait_until};
use agent::reports;
use agent::signal::{Signal, send};

use super::registers;
use crate::driving::drive;
use crate::machine::Machine;
use crate::processes::Processes;

const DEATHS: u32 = 3;

/// More rounds than there is time for.
const ROUNDS: &str = "100000";

/// For how long what a driver had stays its own when it does not come back, and some more.
const ORPHANED: Duration = Duration::from_secs(15);

pub(super) fn again() -> Outcome {
    let bench = Machine::bench()?;
    let restarts = || -> Outcome<u32> { Ok(reports::setting("restarts")?.parse()?) };
    let before = restarts()?;
    let mut driver = Program::start("edud", &["--device", &bench.device, "--rounds", ROUNDS])?;
    driver.wait_line("intact")?;
    let mapped = reports::mappings()?;
    require!(!mapped.is_empty(), "the driver has nothing mapped");
    for death in 1..=DEATHS {
        let served = serving()?;
        send(served, Signal::Kill)?;
        driver.skip_lines();
        wait_until("another iommud serves", || {
            let another = Processes::now().of("iommud").last().is_some_and(|last| *last != served);
            Ok(another && run("iommuctl", &["units"])?.code == Some(0))
        })?;
        let (started, times) = (reports::setting("started")?, restarts()?);
        require!(started.contains("adopted from a predecessor"), "death {death}: {started}");
        require!(times == before + death, "{times} restarts, and {before} before {death} deaths");
        for unit in reports::units()? {
            let (kind, state) = (unit.kind, unit.state);
            require!(state == "translating", "after death {death}, {kind} is {state}");
        }
        let after = reports::mappings()?;
        require!(after == mapped, "after death {death}, {after:x?} are mapped");
        // One round that was under way, and one that was not.
        driver.wait_line("intact")?;
        driver.wait_line("intact")?;
    }
    driver.kill()?;
    let end = Instant::now() + ORPHANED;
    while reports::device(&bench.device)?.state != "free" {
        require!(Instant::now() < end, "the dead driver's device is not free");
        thread::sleep(Duration::from_millis(100));
    }
    let next = bench.edud(&["--rounds", "1"])?.expect(0)?;
    require!(next.line("round 1/1")?.ends_with("intact"), "the data is not intact");
    registers::are_known(drive(&bench)?.device())
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
