//! Whose memory it is when iommud has died.

use std::process::Command;
use std::time::Instant;

use agent::bench::Bench;
use agent::failure::{Failure, Outcome, require};
use agent::programs::{PATIENCE, Program, wait_until};
use agent::reports;
use agent::signal::{Signal, send};
use dma_types::Iova;
use edud::daemon::function;
use edud::{Direction, Edu, MappedBar};

use crate::driving::LENGTH;
use crate::machine::Machine;
use crate::processes::Processes;

/// What others have in their memory.
const OTHERS: u8 = b'?';

/// By which init would tell iommud that it has started it.
const INIT_PIPE: &str = "INIT_NOTIFY";

/// How much memory is taken of the system, to have what is free of it.
const ALL: usize = 640 << 20;
/// How much of it at once.
const SOME: usize = 1 << 20;

/// iommud and its keeper are killed, and the driver, while its device may do what it likes.
pub(super) fn r2_that_nobody_keeps() -> Outcome {
    let bench = Machine::bench()?;
    let driver = bench.hold()?;
    let mappings = reports::mappings()?;
    let mut writable = mappings.iter().filter(|it| it.access.ends_with('w'));
    let place = writable.next().ok_or(Failure("nothing is mapped for writing".into()))?.iova;
    let [keeper, served] = both()?;
    // The keeper has nobody to tell of it, and the other nobody to start it again.
    send(keeper, Signal::Kill)?;
    send(served, Signal::Kill)?;
    driver.kill()?;
    wait_until("all are dead", || Ok(Processes::now().of("iommud").is_empty()))?;
    let mut edu = by_hand(&bench)?;
    let mut all: Vec<Vec<u8>> = (0..ALL / SOME).map(|_| vec![OTHERS; SOME]).collect();
    write(&mut edu, place)?;
    require!(is_untouched(&all), "a device that nobody drives wrote to another's memory");
    all.clear();
    let mut iommud = Command::new("iommud");
    iommud.env_remove(INIT_PIPE);
    Program::from_command(iommud)?.finish()?.expect(0)?;
    for unit in reports::units()? {
        require!(unit.state == "translating", "{} is {}", unit.kind, unit.state);
        let found = unit.abilities.is_some_and(|it| it.found_translating);
        require!(found, "the units were turned off meanwhile");
    }
    let started = reports::setting("started")?;
    require!(started == "by hand", "it was started {started}");
    require!(reports::mappings()?.is_empty(), "something is mapped");
    // What the dead one's device had is out of its reach now.
    write(&mut edu, place)?;
    reports::wait_for_fault(bench.tells, &bench.device, "write", place)
}

/// Takes a device at its registers alone: nobody is there to ask for more.
fn by_hand(bench: &Bench) -> Outcome<Edu<MappedBar>> {
    let address =
        bench.device.parse().map_err(|_| Failure(format!("{} is where?", bench.device)))?;
    Ok(Edu::new(function::switch_on(function::find(Some(address))?)?)?)
}

/// Lets the device write what it has.
fn write(edu: &mut Edu<MappedBar>, place: u64) -> Outcome {
    let end = Instant::now() + PATIENCE;
    let expired = || Instant::now() > end;
    edu.wait(expired)?;
    Ok(edu.transfer(Direction::FromDevice, Iova::new(place), 0, LENGTH as u64, expired)?)
}

fn is_untouched(all: &[Vec<u8>]) -> bool {
    all.iter().flatten().all(|byte| *byte == OTHERS)
}

/// The keeper, and the process that serves, which the keeper started.
fn both() -> Outcome<[u32; 2]> {
    let all = Processes::now().of("iommud");
    match all[..] {
        [keeper, .., last] => Ok([keeper, last]),
        _ => Err(Failure(format!("iommud are the processes {all:?}"))),
    }
}
