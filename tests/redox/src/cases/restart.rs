//! iommud that is killed while devices are at work: what comes after it adopts what it left.

use std::thread;
use std::time::{Duration, Instant};

use agent::failure::{Outcome, require};
use agent::programs::{Program, wait_until};
use agent::reports::{self, Fault, Mapping};
use agent::signal::{Signal, send};

use super::registers;
use crate::driving::drive;
use crate::machine::Machine;
use crate::processes::{another_serves, keeper_and_server};
use crate::rogue::{Canary, Rogue};

/// How often iommud is killed, each time at another moment of a transfer of 100 ms, there or back.
const KILLS: u32 = 3;
const STEP: Duration = Duration::from_millis(37);

/// More rounds than there is time for.
const ROUNDS: &str = "100000";

/// What it calls the memory that its transfers go from and to.
const STREAMED: [&str; 2] = ["edud out", "edud in"];

/// For how long what a driver had stays its own when it does not come back, and some more.
const ORPHANED: Duration = Duration::from_secs(15);

/// No transfer fails or brings the wrong data, and nothing is reached meanwhile that was not before. The driver asks for memory
/// and mappings over and over, so that iommud dies with requests under way; its keeper is stopped for a while, so that
/// nobody serves.
pub(super) fn r2_a_device_streams_on() -> Outcome {
    let (bench, other) = (Machine::bench()?, Machine::second_bench()?);
    let (mut rogue, canary) = (Rogue::of(&other)?, Canary::new());
    let before = restarts()?;
    let words = ["--device", &bench.device, "--rounds", ROUNDS, "--asking"];
    let mut driver = Program::start("edud", &words)?;
    driver.wait_line("intact")?;
    let mapped = streamed()?;
    require!(mapped.len() == STREAMED.len(), "what is streamed from and to is {mapped:x?}");
    let mut asked = asked(&driver.wait_line("asked")?)?;
    for kill in 1..=KILLS {
        let [keeper, served] = keeper_and_server()?;
        thread::sleep(STEP * kill);
        send(keeper, Signal::Stop)?;
        send(served, Signal::Kill)?;
        driver.skip_lines();
        let place = canary.place()?;
        rogue.write(place)?;
        canary.check()?;
        // One round that was under way, and one that was not.
        driver.wait_line("intact")?;
        driver.wait_line("intact")?;
        send(keeper, Signal::Continue)?;
        another_serves(served)?;
        let (started, times) = (reports::setting("started")?, restarts()?);
        require!(started.contains("adopted from a predecessor"), "kill {kill}: {started}");
        require!(times == before + kill, "{times} restarts, and {before} before {kill} kills");
        for unit in reports::units()? {
            require!(unit.state == "translating", "kill {kill}: {} is {}", unit.kind, unit.state);
        }
        let after = streamed()?;
        require!(after == mapped, "kill {kill}: mapped is {after:x?} instead of {mapped:x?}");
        // The unit has noted what it blocked while nobody served.
        reports::wait_for_fault(other.tells, &other.device, "write", place)?;
        driver.wait_line("intact")?;
        driver.wait_line("intact")?;
        let faults = reports::rows::<Fault>("faults")?;
        let of_it = faults.iter().find(|fault| fault.device == bench.device);
        require!(of_it.is_none(), "kill {kill}: the device was blocked: {of_it:x?}");
        wait_until("the driver is answered again", || {
            let before = asked[0];
            asked = self::asked(&driver.wait_line("asked")?)?;
            Ok(asked[0] > before)
        })?;
    }
    require!(asked[1] >= 1, "the driver has never waited for another iommud");
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

/// How often iommud was started again.
fn restarts() -> Outcome<u32> {
    Ok(reports::setting("restarts")?.parse()?)
}

/// What the driver's transfers go from and to.
pub(super) fn streamed() -> Outcome<Vec<Mapping>> {
    let mut mappings = reports::mappings()?;
    mappings.retain(|mapping| STREAMED.contains(&&*mapping.label));
    Ok(mappings)
}

/// How often the driver has asked iommud, and how often that took long, as it says.
fn asked(line: &str) -> Outcome<[u32; 2]> {
    let numbers = line.split(' ').filter_map(|word| word.parse().ok());
    let numbers: Vec<u32> = numbers.collect();
    Ok(numbers[..].try_into()?)
}
