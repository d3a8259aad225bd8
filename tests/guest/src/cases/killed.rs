//! Drivers that are killed while their device is at work.

use std::thread;
use std::time::Duration;

use edud::Direction;

use crate::devices::{self, Function};
use crate::dma;
use crate::failure::{Outcome, require};
use crate::huge_pages::{self, HugePages};
use crate::programs::{Program, run, start_iommud, wait_until};
use crate::reports::{self, Mapping, wait_for_fault};
use crate::traces::Traces;

/// How often a driver is killed, each time at another moment of a transfer of 100 ms, there or back.
const KILLS: u32 = 6;
const STEP: Duration = Duration::from_millis(37);

/// More than a transfer takes.
const TRANSFER: Duration = Duration::from_millis(150);

/// Starts a driver whose device is at work until it is killed.
fn start(edu: &Function) -> Outcome<Program> {
    let mut driver = Program::start("edud", &["--device", &edu.name(), "--hold"])?;
    driver.wait_line("holding")?;
    Ok(driver)
}

pub(super) fn leaves_nothing() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let edu = devices::edu()?;
    let mut in_transfer = 0;
    for kill in 0..KILLS {
        // The one before was killed just now, and all the same the device can be had at once.
        let driver = start(&edu)?;
        require!(edu.is_bus_master()?, "the device is at work and may make no requests");
        thread::sleep(STEP * kill);
        driver.kill()?;
        in_transfer += u32::from(dma::is_busy(&edu)?);
        if kill % 2 == 0 {
            wait_until("bus mastering is off", || Ok(!edu.is_bus_master()?))?;
            before.wait_for_return()?;
        }
    }
    // Between two transfers the device rests for a moment, but not each time.
    require!(in_transfer > 0, "no driver died in mid-transfer");
    run("edud", &["--device", &edu.name(), "--rounds", "1"])?.expect(0)?;
    before.wait_for_return()
}

/// How often a driver is killed somewhere, and how many of these deaths are looked into. On both vendors together it is
/// 200.
const ANYWHERE: u64 = 100;
const LOOKED_INTO: u64 = 5;

/// Half a minute, or twice that where the host has more to do.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// A driver is killed anywhere in what it does with memory of every kind, its opening of the device included. The next
/// has the device at once. Now and then all that is free is filled, and the device, which may make requests, ends what
/// it was at: nothing of that is changed.
pub(super) fn anywhere() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let edu = devices::edu()?;
    let mut in_transfer = 0;
    for kill in 0..ANYWHERE {
        // No two of them are alike.
        let moment = kill.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let seed = kill.to_string();
        let mut driver = Program::start("edud", &["--device", &edu.name(), "--traffic", &seed])?;
        if kill % 4 > 0 {
            driver.wait_line("traffic")?;
        }
        thread::sleep(Duration::from_micros(moment % 40_000));
        driver.kill()?;
        let is_busy = dma::is_busy(&edu)?;
        in_transfer += u64::from(is_busy);
        if kill % (ANYWHERE / LOOKED_INTO) == 1 {
            before.wait_for_return()?;
            let canary = HugePages::new(huge_pages::free()?)?;
            edu.enable()?;
            wait_until("the transfer is over", || Ok(!dma::is_busy(&edu)?))?;
            require!(canary.are_intact()?, "somebody has written to memory that was free");
        }
    }
    require!(in_transfer > ANYWHERE / 4, "{in_transfer} drivers died in mid-transfer");
    run("edud", &["--device", &edu.name(), "--rounds", "1"])?.expect(0)?;
    before.wait_for_return()
}

/// The memory of a dead driver is somebody else's soon, and so the device must not reach it any more: not by
/// the transfer that was running, and not by others that somebody starts.
pub(super) fn reaches_nothing() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let edu = devices::edu()?;
    let driver = start(&edu)?;
    let mappings = reports::mappings()?;
    driver.kill()?;
    before.wait_for_return()?;
    // All that is free, so that what the driver had is in it.
    let canary = HugePages::new(huge_pages::free()?)?;
    for Mapping { physical, label, .. } in &mappings {
        let there = canary.physical().contains(physical);
        require!(there, "the memory of {label:?} at {physical:#x} is nobody's");
    }
    thread::sleep(TRANSFER);
    for Mapping { iova, physical, .. } in &mappings {
        for address in [*iova, *physical] {
            dma::transfer(&edu, Direction::FromDevice, address, 512)?;
            wait_for_fault(&edu.name(), "write", address)?;
            dma::transfer(&edu, Direction::ToDevice, address, 512)?;
            wait_for_fault(&edu.name(), "read", address)?;
        }
    }
    require!(canary.are_intact()?, "somebody has written to memory that was free");
    Ok(())
}
