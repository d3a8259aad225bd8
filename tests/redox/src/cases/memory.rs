//! Whose memory it is when iommud has died.

use std::process::Command;

use agent::failure::{Failure, Outcome, require};
use agent::programs::{Program, wait_until};
use agent::reports;
use agent::signal::{Signal, send};
use agent::traces::Traces;
use driver_platform::let_inherit;
use libdma::protocol::Rights;
use libdma::{Access, Device};

use crate::chain::Chain;
use crate::driving::drive;
use crate::lent::{BYTES, LENT, NO_WRITING};
use crate::machine::Machine;
use crate::processes::{Processes, another_serves, keeper_and_server};
use crate::rogue::Rogue;

/// What others have in their memory.
const OTHERS: u8 = b'?';

/// How many buffers are had later, which is more than there were before.
const PIECES: usize = 64;

/// By which init would tell iommud that it has started it.
const INIT_PIPE: &str = "INIT_NOTIFY";

/// How much memory is taken of the system, to have what is free of it.
const ALL: usize = 640 << 20;
/// How much of it at once.
const SOME: usize = 1 << 20;

/// A process that was lent a buffer has it mapped still when iommud has died and another one serves, which hears nothing of it.
pub(super) fn r8_that_is_still_mapped() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    let driver = drive(&bench)?;
    let device = driver.device();
    // What is in use beside it keeps iommud from giving all of it back to the kernel.
    let beside = device.allocate(BYTES as u64, None, "beside it")?;
    let buffer = device.allocate(BYTES as u64, Some(Access::Write), "lent")?;
    let handle = buffer.share(Rights::READ | Rights::INSPECT)?;
    let_inherit(&handle)?;
    let mut command = Command::new("iommu-selftest");
    command.arg(LENT).env(driver_platform::LENT_VARIABLE, handle.raw().number().to_string());
    let mut other = Program::from_command(command)?;
    drop(handle);
    other.wait_line(NO_WRITING)?;
    let lent = pages_of("lent")?;
    require!(!lent.is_empty(), "nothing is lent");
    let [_, served] = keeper_and_server()?;
    send(served, Signal::Kill)?;
    // This process has memory of the dead one's mapped, too, and starts programs all the same.
    another_serves(served)?;
    // Whoever else has a handle of the buffer has one of the dead one's: it ends with this.
    drop(buffer);
    is_given_to_nobody(device, &lent)?;
    other.kill()?;
    drop((beside, driver));
    before.wait_for_return()
}

/// A client has the kernel, and by it iommud, take for unmapped what it was lent: the kernel counts only who borrows straight
/// of that.
pub(super) fn r8_that_seems_to_be_unmapped() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    let driver = drive(&bench)?;
    let device = driver.device();
    let beside = device.allocate(BYTES as u64, None, "beside it")?;
    let buffer = device.allocate(BYTES as u64, Some(Access::Write), "lent")?;
    let handle = buffer.share(Rights::READ | Rights::INSPECT)?;
    let chain = Chain::of(&handle)?;
    let lent = pages_of("lent")?;
    require!(!lent.is_empty(), "nothing is lent");
    chain.seem_unmapped()?;
    // They close although the chain has the memory still.
    drop((handle, buffer));
    is_given_to_nobody(device, &lent)?;
    drop((chain, beside, driver));
    before.wait_for_return()
}

/// Once the buffer of these pages has gone, whatever is allocated has others.
fn is_given_to_nobody(device: &Device, lent: &[u64]) -> Outcome {
    wait_until("the buffer is gone", || Ok(pages_of("lent")?.is_empty()))?;
    let allocate = |_| device.allocate(BYTES as u64, Some(Access::Write), "another's");
    let _taken = (0..PIECES).map(allocate).collect::<Result<Vec<_>, _>>()?;
    let others = pages_of("another's")?;
    require!(others.len() >= PIECES, "of {PIECES} pieces, {} are mapped", others.len());
    let again = others.iter().find(|page| lent.contains(page));
    require!(again.is_none(), "the page at {again:x?} is mapped still and given out again");
    Ok(())
}

/// iommud and its keeper are killed, and the driver, while its device may do what it likes.
pub(super) fn r2_that_nobody_keeps() -> Outcome {
    let bench = Machine::bench()?;
    let driver = bench.hold()?;
    let mappings = reports::mappings()?;
    let mut writable = mappings.iter().filter(|it| it.access.ends_with('w'));
    let place = writable.next().ok_or(Failure("nothing is mapped for writing".into()))?.iova;
    let [keeper, served] = keeper_and_server()?;
    // The keeper has nobody to tell of it, and the other nobody to start it again.
    send(keeper, Signal::Kill)?;
    send(served, Signal::Kill)?;
    driver.kill()?;
    wait_until("all are dead", || Ok(Processes::now().of("iommud").is_empty()))?;
    let mut rogue = Rogue::of(&bench)?;
    let mut all: Vec<Vec<u8>> = (0..ALL / SOME).map(|_| vec![OTHERS; SOME]).collect();
    rogue.write(place)?;
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
    rogue.write(place)?;
    reports::wait_for_fault(bench.tells, &bench.device, "write", place)
}

fn is_untouched(all: &[Vec<u8>]) -> bool {
    all.iter().flatten().all(|byte| *byte == OTHERS)
}

/// Where in physical memory what is mapped under this label is.
fn pages_of(label: &str) -> Outcome<Vec<u64>> {
    let mappings = reports::mappings()?.into_iter();
    Ok(mappings.filter(|it| it.label == label).map(|it| it.physical).collect())
}
