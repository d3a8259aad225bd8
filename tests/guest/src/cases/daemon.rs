//! iommud itself: how it comes up, how it ends, and who else is there.

use std::path::Path;

use agent::process::descendants;
use agent::signal::{Signal, send};

use crate::failure::{Failure, Outcome, require};
use crate::programs::{kill_iommud, run, serving, start_iommud, wait_until};
use crate::reports::{self, Unit};
use crate::{devices, unit};

/// Where iommud's socket is.
const SOCKET: &str = "/run/iommud.sock";

/// The one unit there is.
fn the_unit() -> Outcome<Unit> {
    let mut units = reports::units()?;
    require!(units.len() == 1, "{} units instead of 1", units.len());
    Ok(units.remove(0))
}

pub(super) fn brings_the_unit_up() -> Outcome {
    let _iommud = start_iommud()?;
    let unit = the_unit()?;
    let hardware = unit::Unit::find()?;
    let base = hardware.base();
    require!(unit.registers == base, "registers at {:#x}, not {base:#x}", unit.registers);
    let (kind, state) = (unit.kind, unit.state);
    require!((&*kind, &*state) == (hardware.kind(), "translating"), "{kind} is {state}");
    require!(unit.devices >= 4, "it covers {} devices", unit.devices);
    let Some(abilities) = unit.abilities else { return Ok(()) };
    let (bits, levels) = (abilities.address_bits, abilities.levels);
    require!(bits == 48 && levels.contains(&4), "{bits} bits, {levels:?} levels");
    require!(!abilities.found_translating, "it was translating before");
    for edu in devices::both_edus()? {
        let device = reports::device(&edu.name())?;
        require!(device.id == "1234:11e8", "{} is {}", device.device, device.id);
        require!(device.unit == Some(0), "{} is covered by {:?}", device.device, device.unit);
        require!(device.state == "free", "{} is {}", device.device, device.state);
    }
    Ok(())
}

pub(super) fn takes_over_from_a_dead_one() -> Outcome {
    kill_iommud(start_iommud()?)?;
    require!(Path::new(SOCKET).exists(), "a killed iommud removed its socket");
    let edu = devices::edu()?;
    edu.enable()?;
    require!(edu.is_bus_master()?, "it may make no requests");
    let _iommud = start_iommud()?;
    // Nobody has what the units walk until they walk something else.
    require!(!edu.is_bus_master()?, "a device was at work while memory was taken");
    let unit = the_unit()?;
    require!(unit.state == "translating", "the unit is {}", unit.state);
    let found = unit.abilities.is_some_and(|abilities| abilities.found_translating);
    require!(found, "it was not translating before");
    run("edud", &["--rounds", "1"])?.expect(0)?;
    Ok(())
}

/// How often the process that serves is killed.
const DEATHS: u32 = 3;

pub(super) fn is_started_again() -> Outcome {
    let iommud = start_iommud()?;
    let edu = devices::edu()?.name();
    for death in 1..=DEATHS {
        let served = serving(&iommud)?;
        send(served, Signal::Kill)?;
        wait_until("another serves", || {
            Ok(serving(&iommud).is_ok_and(|another| another != served))
        })?;
        // Who comes before it is ready waits.
        let restarts = reports::setting("restarts")?;
        require!(restarts == death.to_string(), "{restarts} restarts after {death} deaths");
        let unit = the_unit()?;
        require!(unit.state == "translating", "the unit is {}", unit.state);
        run("edud", &["--device", &edu, "--rounds", "1"])?.expect(0)?;
        // Were iommud killed before it has heard of the end of its client, the next one would wait for that to come back.
        wait_until("the device is free", || Ok(reports::device(&edu)?.state == "free"))?;
    }
    iommud.signal(Signal::Term)?;
    iommud.finish()?.expect(0)?.line("iommud: told to end")?;
    require!(!Path::new(SOCKET).exists(), "its socket is still there");
    Ok(())
}

/// The one that serves starts another, which starts another one to serve when that dies, too.
pub(super) fn goes_on_without_its_keeper() -> Outcome {
    let iommud = start_iommud()?;
    let serves = serving(&iommud)?;
    iommud.signal(Signal::Kill)?;
    wait_until("another keeper", || Ok(descendants(serves).len() == 1))?;
    let [keeper] = descendants(serves)[..] else { return Err(Failure("no keeper".into())) };
    let edu = devices::edu()?.name();
    run("edud", &["--device", &edu, "--rounds", "1"])?.expect(0)?;
    // As above: it has heard of the end of its client.
    wait_until("the device is free", || Ok(reports::device(&edu)?.state == "free"))?;
    send(serves, Signal::Kill)?;
    wait_until("another serves", || Ok(descendants(keeper).len() == 1))?;
    // Who comes before it is ready waits.
    let (started, restarts) = (reports::setting("started")?, reports::setting("restarts")?);
    require!(started.contains("adopted from a predecessor"), "{started}");
    require!(restarts == "1", "{restarts} restarts");
    run("edud", &["--rounds", "1"])?.expect(0)?;
    send(keeper, Signal::Term)?;
    wait_until("the socket is gone", || Ok(!Path::new(SOCKET).exists()))?;
    iommud.finish()?;
    Ok(())
}

pub(super) fn a_second_one_is_refused() -> Outcome {
    let _iommud = start_iommud()?;
    let second = run("iommud", &[])?.expect(1)?;
    second.line(&format!("iommud: another iommud serves at {SOCKET}"))?;
    // The first goes on.
    run("edud", &["--rounds", "1"])?.expect(0)?;
    Ok(())
}

pub(super) fn ends_when_told() -> Outcome {
    let iommud = start_iommud()?;
    iommud.signal(Signal::Term)?;
    iommud.finish()?.expect(0)?.line("iommud: told to end")?;
    require!(!Path::new(SOCKET).exists(), "its socket is still there");
    Ok(())
}
