//! iommud that is killed while devices are at work: what comes after it adopts what it left.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use agent::signal::{Signal, send};
use edud::Direction;

use crate::dma;
use crate::failure::{Outcome, require};
use crate::huge_pages::HugePages;
use crate::programs::{Program, serving, start_iommud_with, wait_until};
use crate::reports::{self, Fault, Mapping};
use crate::{devices, huge_pages};

/// How long the case may take.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// How often iommud is killed, each time at another moment of a transfer of 100 ms, there or back.
const KILLS: u32 = 20;
const STEP: Duration = Duration::from_millis(13);

/// For how long iommud must have served to be started again without a pause.
const STEADY: Duration = Duration::from_secs(1);

/// A driver that needs nothing of iommud does not come back to it: for that long what it has stays its own.
const POLICY: &str = "(orphans: \"60 s\")";
const POLICY_FILE: &str = "/tmp/orphans.ron";

/// More rounds than there is time for.
const ROUNDS: &str = "100000";

/// How many bytes a device tries to bring that nobody holds.
const BYTES: u64 = 512;

/// No transfer fails or brings the wrong data, and nothing is reached meanwhile that was not before.
pub(super) fn r2_a_device_streams_on() -> Outcome {
    fs::write(POLICY_FILE, POLICY)?;
    let iommud = start_iommud_with(&["--policy", POLICY_FILE])?;
    let [edu, other] = devices::both_edus()?;
    let canary = HugePages::new(1)?;
    let mut driver = Program::start("edud", &["--device", &edu.name(), "--rounds", ROUNDS])?;
    driver.wait_line("intact")?;
    let mapped = reports::mappings()?;
    require!(!mapped.is_empty(), "the driver has nothing mapped");
    let free = huge_pages::free()?;
    for kill in 1..=KILLS {
        let served = serving(&iommud)?;
        thread::sleep(STEP * (kill % 16));
        send(served, Signal::Kill)?;
        driver.skip_lines();
        require!(edu.is_bus_master()?, "kill {kill}: the device may make no requests");
        // Now by the tables of the dead, then by those that its successor has adopted.
        dma::transfer(&other, Direction::FromDevice, canary.first(), BYTES)?;
        require!(canary.are_intact()?, "kill {kill}: a device that nobody holds wrote to memory");
        wait_until("another serves", || {
            Ok(serving(&iommud).is_ok_and(|another| another != served))
        })?;
        let began = Instant::now();
        // Who comes before it is ready waits.
        let (started, restarts) = (reports::setting("started")?, reports::setting("restarts")?);
        require!(started.contains("adopted from a predecessor"), "kill {kill}: {started}");
        require!(restarts == kill.to_string(), "{restarts} restarts after {kill} kills");
        let after: Vec<Mapping> = reports::mappings()?;
        require!(after == mapped, "kill {kill}: mapped is {after:x?} instead of {mapped:x?}");
        for unit in reports::units()? {
            require!(unit.state == "translating", "kill {kill}: {} is {}", unit.kind, unit.state);
        }
        // One round that was under way, and one that was not.
        driver.wait_line("intact")?;
        driver.wait_line("intact")?;
        let faults = reports::rows::<Fault>("faults")?;
        let of_it = faults.iter().find(|fault| fault.device == edu.name());
        require!(of_it.is_none(), "kill {kill}: the device was blocked: {of_it:x?}");
        thread::sleep(STEADY.saturating_sub(began.elapsed()));
    }
    // Nothing was lost on the way: a queue and what is new takes no more than what is given back.
    let left = huge_pages::free()?;
    require!(
        left + 2 >= free,
        "{left} huge pages are free after {KILLS} kills, {free} were before"
    );
    Ok(())
}
