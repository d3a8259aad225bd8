//! iommud that is killed while devices are at work: what comes after it adopts what it left.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use agent::signal::{Signal, send};
use edud::Direction;
use libdma::handle::DEVICE_VARIABLE;

use crate::devices::Function;
use crate::dma;
use crate::failure::{Outcome, require};
use crate::huge_pages::HugePages;
use crate::other::{let_inherit, open_when_free};
use crate::programs::{Program, kill_iommud, serving, start_iommud, wait_until};
use crate::reports::{self, Fault, Mapping};
use crate::{devices, huge_pages};

/// How long the case may take.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// How often iommud is killed, each time at another moment of a transfer of 100 ms, there or back.
const KILLS: u32 = 20;
const STEP: Duration = Duration::from_millis(13);

/// For how long iommud must have served to be started again without a pause.
const STEADY: Duration = Duration::from_secs(1);

/// From this one on, the driver was handed its device.
const HANDED: u32 = KILLS / 2 + 1;

/// At each such one, nobody serves for a while.
const PAUSED: u32 = 4;

/// More rounds than there is time for.
const ROUNDS: &str = "100000";

/// What it calls the memory that its transfers go from and to.
const STREAMED: [&str; 2] = ["edud out", "edud in"];

/// How many bytes a device tries to bring that nobody holds.
const BYTES: u64 = 512;

/// No transfer fails or brings the wrong data, and nothing is reached meanwhile that was not before. The driver asks for memory
/// and mappings over and over, so that iommud dies with requests under way. For the first half it has opened its device, and
/// for the second been handed it.
pub(super) fn r2_a_device_streams_on() -> Outcome {
    let before = huge_pages::free()?;
    let iommud = start_iommud()?;
    let [edu, other] = devices::both_edus()?;
    let canary = HugePages::new(1)?;
    let words = ["--rounds", ROUNDS, "--asking"];
    let mut driver = Program::start("edud", &[&["--device", &edu.name()][..], &words].concat())?;
    let mut mapped = at_work(&mut driver)?;
    let mut asked = asked(&driver.wait_line("asked")?)?;
    let mut waited = 0;
    for kill in 1..=KILLS {
        if kill == HANDED {
            waited = asked[1];
            driver.kill()?;
            driver = handed(&edu, &words)?;
            mapped = at_work(&mut driver)?;
            asked = self::asked(&driver.wait_line("asked")?)?;
        }
        let served = serving(&iommud)?;
        let is_paused = kill % PAUSED == 0;
        thread::sleep(STEP * (kill % 16));
        if is_paused {
            iommud.signal(Signal::Stop)?;
        }
        send(served, Signal::Kill)?;
        driver.skip_lines();
        require!(edu.is_bus_master()?, "kill {kill}: the device may make no requests");
        // By the tables of the dead, and else partly by those that its successor has adopted.
        dma::transfer(&other, Direction::FromDevice, canary.first(), BYTES)?;
        require!(canary.are_intact()?, "kill {kill}: a device that nobody holds wrote to memory");
        if is_paused {
            driver.wait_line("intact")?;
            driver.wait_line("intact")?;
            iommud.signal(Signal::Continue)?;
        }
        wait_until("another serves", || {
            Ok(serving(&iommud).is_ok_and(|another| another != served))
        })?;
        let began = Instant::now();
        // Who comes before it is ready waits.
        let (started, restarts) = (reports::setting("started")?, reports::setting("restarts")?);
        require!(started.contains("adopted from a predecessor"), "kill {kill}: {started}");
        require!(restarts == kill.to_string(), "{restarts} restarts after {kill} kills");
        let after = streamed()?;
        require!(after == mapped, "kill {kill}: mapped is {after:x?} instead of {mapped:x?}");
        for unit in reports::units()? {
            require!(unit.state == "translating", "kill {kill}: {} is {}", unit.kind, unit.state);
        }
        if is_paused {
            // The unit has noted what it blocked while nobody served.
            reports::wait_for_fault(&other.name(), "write", canary.first())?;
        }
        // One round that was under way, and one that was not.
        driver.wait_line("intact")?;
        driver.wait_line("intact")?;
        let faults = reports::rows::<Fault>("faults")?;
        let of_it = faults.iter().find(|fault| fault.device == edu.name());
        require!(of_it.is_none(), "kill {kill}: the device was blocked: {of_it:x?}");
        wait_until("the driver is answered again", || {
            let before = asked[0];
            asked = self::asked(&driver.wait_line("asked")?)?;
            Ok(asked[0] > before)
        })?;
        thread::sleep(STEADY.saturating_sub(began.elapsed()));
    }
    waited += asked[1];
    require!(waited >= KILLS / PAUSED, "the driver has waited for another iommud {waited} times");
    driver.kill()?;
    wait_until("nothing is mapped", || Ok(reports::mappings()?.is_empty()))?;
    drop(canary);
    kill_iommud(iommud)?;
    // Nothing was lost on the way.
    wait_until("all huge pages are free", || Ok(huge_pages::free()? == before))
}

/// What is mapped of a driver's that is at work.
fn at_work(driver: &mut Program) -> Outcome<Vec<Mapping>> {
    driver.wait_line("intact")?;
    let mapped = streamed()?;
    require!(mapped.len() == STREAMED.len(), "what is streamed from and to is {mapped:x?}");
    Ok(mapped)
}

/// Starts a driver that is handed its device by this process, which keeps nothing of it.
fn handed(edu: &Function, words: &[&str]) -> Outcome<Program> {
    let device = open_when_free(edu)?;
    let number = let_inherit(device.handle())?;
    let mut command = Command::new("edud");
    command.args(words).env(DEVICE_VARIABLE, number.to_string());
    Program::from_command(command)
}

/// What the driver's transfers go from and to.
fn streamed() -> Outcome<Vec<Mapping>> {
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
