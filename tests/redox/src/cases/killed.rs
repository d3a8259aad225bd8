//! Drivers that are killed while their device is at work.

use std::thread;
use std::time::Duration;

use agent::bench::faults;
use agent::failure::{Outcome, require};
use agent::traces::Traces;

use crate::machine::Machine;

/// How often a driver is killed, each time at another moment of a transfer of 100 ms, there or back.
const KILLS: u32 = 6;
const STEP: Duration = Duration::from_millis(37);

pub(super) fn leaves_nothing() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    for kill in 0..KILLS {
        // The one before was killed just now, and all the same the device can be had at once.
        let driver = bench.hold()?;
        thread::sleep(STEP * kill);
        driver.kill()?;
        if kill % 2 == 0 {
            before.wait_for_return()?;
        }
    }
    let blocked = faults()?;
    let next = bench.edud(&["--rounds", "1"])?.expect(0)?;
    require!(next.line("round 1/1")?.ends_with("intact"), "the next one's data is not intact");
    before.wait_for_return()?;
    require!(faults()? == blocked, "the next one was blocked");
    Ok(())
}
