//! Who may have a device, and for how long.

use agent::bench::faults;
use agent::failure::{Failure, Outcome, require};
use agent::programs::{Program, run_as_nobody, wait_until};
use agent::reports;
use agent::signal::{Signal, send};
use agent::traces::Traces;

use crate::machine::Machine;
use crate::processes::Processes;

/// By pcid, which has one channel for each function, before iommud is even asked.
pub(super) fn a_second_opener_is_refused() -> Outcome {
    let bench = Machine::bench()?;
    let (before, blocked) = (Traces::now()?, faults()?);
    let driver = bench.hold()?;
    let mappings = reports::mappings()?;
    bench.edud(&["--rounds", "1"])?.expect(1)?.line("/channel: ")?;
    require!(reports::mappings()? == mappings, "the holder's mappings have changed");
    let handles = reports::device(&bench.device)?.handles;
    require!(handles == 1, "there are {handles} handles, and the holder has 1");
    driver.kill()?;
    before.wait_for_return()?;
    require!(faults()? == blocked, "the holder's device was blocked");
    run_as_nobody("iommuctl", &["mappings"])?.expect(1)?.line("(only root may see this)")?;
    Ok(())
}

pub(super) fn a_passed_handle_works() -> Outcome {
    Machine::bench()?.a_passed_handle_works(&["edud"])
}

pub(super) fn a_passed_handle_outlives() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    let words = ["--device", &bench.device, "--pass-to", "edud", "--hold"];
    let mut first = Program::start("edud", &words)?;
    first.wait_line("holding")?;
    let number = first.id();
    let others: Vec<u32> =
        Processes::now().of("edud").into_iter().filter(|other| *other != number).collect();
    let [child] = others[..] else {
        return Err(Failure(format!("besides {number}, edud are the processes {others:?}")));
    };
    let (device, mappings) = (reports::device(&bench.device)?, reports::mappings()?);
    require!(device.handles == 1, "there are {} handles to the device", device.handles);
    first.kill()?;
    let after = reports::device(&bench.device)?;
    require!(after.generation == device.generation, "the session is another");
    require!(reports::mappings()? == mappings, "the mappings have changed");
    send(child, Signal::Kill)?;
    wait_until("the device is free", || Ok(reports::device(&bench.device)?.state == "free"))?;
    before.wait_for_return()
}
