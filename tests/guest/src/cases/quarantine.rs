//! Devices that are denied more than the policy allows.

use std::fs;

use agent::bench::PAGE;
use edud::Direction;
use libdma::{Access, Buffer, Device, Error, Event};

use crate::devices::{self, Function};
use crate::dma::transfer;
use crate::failure::{Outcome, require};
use crate::huge_pages::HugePages;
use crate::other::open;
use crate::programs::{run, run_as_nobody, start_iommud_with, wait_until};
use crate::reports::{self, wait_for_fault};
use crate::traces::Traces;
use crate::unit::Unit;

/// How often a device may try.
const FAULTS: u64 = 3;
const POLICY: &str = "(quarantine: (faults: 3, within: \"30 s\"))";
const POLICY_FILE: &str = "/tmp/quarantine.ron";

/// What the device brings.
const BYTES: usize = 16;
const MARK: [u8; BYTES] = *b"brought by it...";

/// A driver's device is blocked, and reaches again what it did when the administrator has released it. So does one that
/// nobody holds, for the driver who comes next.
pub(super) fn ends_with_a_release() -> Outcome {
    fs::write(POLICY_FILE, POLICY)?;
    let _iommud = start_iommud_with(&["--policy", POLICY_FILE])?;
    let before = Traces::now()?;
    let [edu, other] = devices::both_edus()?;
    let name = edu.name();
    let not_in = format!("{}", Error::NotQuarantined);
    run("iommuctl", &["release", &name])?.expect(1)?.line(&not_in)?;
    if !Unit::find()?.tells_what_it_blocks() {
        return Ok(());
    }
    let canary = HugePages::new(1)?;
    let device = open(&edu)?;
    let ring = device.allocate(PAGE, Some(Access::ReadWrite), "ring")?;
    require!(brings(&edu, &ring)?, "the device does not even reach what it may");
    offend(&edu, "held", &canary)?;
    is_told(&device)?;
    require!(!edu.is_bus_master()?, "the device may make requests");
    // Now it may, for all that PCI can do.
    require!(!brings(&edu, &ring)?, "the device reaches the driver's memory");
    let refused = device.allocate(PAGE, None, "unmapped").and_then(|buffer| {
        let whole =
            libdma::MapRequest { buffer: &buffer, offset: 0, bytes: PAGE, access: Access::Read };
        device.map(&[whole])
    });
    require!(refused == Err(Error::Quarantined), "a mapping is answered by {refused:?}");
    run("edud", &["--device", &other.name(), "--rounds", "1"])?.expect(0)?;

    run_as_nobody("iommuctl", &["release", &name])?.expect(1)?;
    release(&name, "held")?;
    let refused = device.allocate(PAGE, Some(Access::Read), "more").err();
    require!(refused == Some(Error::DeviceReset), "its driver is answered by {refused:?}");
    device.renew()?;
    require!(brings(&edu, &ring)?, "the device does not reach what it did");
    drop((ring, device));

    wait_until("the device is free", || Ok(reports::device(&name)?.state == "free"))?;
    offend(&edu, "free", &canary)?;
    let refusal = format!("{}", Error::Quarantined);
    run("edud", &["--device", &name])?.expect(1)?.line(&refusal)?;
    release(&name, "free")?;
    run("edud", &["--device", &name, "--rounds", "1"])?.expect(0)?;
    require!(canary.are_intact()?, "the device wrote to memory");
    drop(canary);
    before.wait_for_return()
}

/// Lets the device write where it may not, until that is too often: not sooner, and iommuctl says why.
fn offend(edu: &Function, state: &str, canary: &HugePages) -> Outcome {
    let name = edu.name();
    for page in 1..=FAULTS {
        let found = reports::device(&name)?.state;
        require!(found == state, "the device is {found} before access {page}");
        let place = canary.first() + page * PAGE;
        transfer(edu, Direction::FromDevice, place, BYTES as u64)?;
        wait_for_fault(&name, "write", place)?;
    }
    wait_until("the device is blocked", || Ok(reports::device(&name)?.state == "QUARANTINED"))?;
    let last = canary.first() + FAULTS * PAGE;
    let why = format!(
        ": {name} was denied {FAULTS} accesses within 30 s, the last a write at {last:#x}; `iommuctl \
         release` ends it"
    );
    let devices = run("iommuctl", &["devices"])?.expect(0)?;
    let told = devices.line(&why)?;
    require!(told.contains("in quarantine for "), "it said {told:?}");
    Ok(())
}

/// Releases it, and finds it in this state.
fn release(name: &str, state: &str) -> Outcome {
    let done = format!("{name} is released from quarantine");
    run("iommuctl", &["release", name])?.expect(0)?.line(&done)?;
    let found = reports::device(name)?.state;
    require!(found == state, "the device is {found} after its release");
    let devices = run("iommuctl", &["devices"])?.expect(0)?.lines;
    let is_named = devices.iter().any(|line| line.contains("quarantine"));
    require!(!is_named, "it is still said to be in quarantine: {devices:?}");
    Ok(())
}

/// Whether the device brings the mark to the second half of the buffer, whose first it reads.
fn brings(edu: &Function, ring: &Buffer) -> Outcome<bool> {
    let half = PAGE / 2;
    let place = ring.iova().ok_or(Error::NotMapped)?.get();
    ring.write(0, &MARK)?;
    ring.write(half as usize, &[0; BYTES])?;
    transfer(edu, Direction::ToDevice, place, BYTES as u64)?;
    transfer(edu, Direction::FromDevice, place + half, BYTES as u64)?;
    let mut found = [0; BYTES];
    ring.read(half as usize, &mut found)?;
    require!(found == MARK || found == [0; BYTES], "the device has brought {found:x?}");
    Ok(found == MARK)
}

/// Its driver is told of each access, and then of the quarantine.
fn is_told(device: &Device) -> Outcome {
    let events = device.events()?;
    let faults: u64 = events.faults().map(|fault| fault.times).sum();
    require!(faults == FAULTS, "{faults} accesses are told, and not {FAULTS}");
    let told = events.events.last();
    let is_last = matches!(told, Some(Event::Quarantined { faults: FAULTS, .. }));
    require!(is_last, "the last that is told is {told:?}");
    Ok(())
}
