//! A machine without an IOMMU: what iommud does there, and what it does not.

use std::fs;
use std::thread;
use std::time::Duration;

use super::{checked, drivers};
use crate::addresses;
use crate::devices;
use crate::failure::{Outcome, require};
use crate::huge_pages::{self, HugePages};
use crate::programs::{Program, run, start_iommud_with};
use crate::reports::{self, Device};
use crate::sharing;
use crate::traces::Traces;

/// More than a transfer takes.
const TRANSFER: Duration = Duration::from_millis(150);

/// Starts iommud with a policy that lets it serve here.
pub(super) fn start_iommud() -> Outcome<Program> {
    let policy = "/tmp/unprotected.ron";
    fs::write(policy, "(without_iommu: unprotected)")?;
    start_iommud_with(&["--policy", policy])
}

pub(super) fn refuses_by_default() -> Outcome {
    let end = run("iommud", &[])?.expect(2)?;
    let line = end.line("iommud: the firmware describes no IOMMU")?;
    require!(line.contains("say `without_iommu: unprotected` in the policy"), "it said {line:?}");
    run("iommuctl", &["units"])?.expect(3)?;
    Ok(())
}

pub(super) fn drivers_work() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    for edu in devices::both_edus()? {
        let arguments = ["--device", &edu.name(), "--dma-mask", "64", "--rounds", "2"];
        let end = run("edud", &arguments)?.expect(0)?;
        end.line("NOT CONFINED, this machine has no IOMMU")?;
        let round = end.line("round 2/2")?;
        require!(round.ends_with("intact"), "it said {round:?}");
        before.wait_for_return()?;
        require!(!edu.is_bus_master()?, "{} may still make requests", edu.name());
    }
    Ok(())
}

pub(super) fn every_buffer() -> Outcome {
    served(|| {
        for edu in devices::both_edus()? {
            drivers::buffers(&edu, &["--dma-mask", "64"])?;
        }
        Ok(())
    })
}

pub(super) fn each_mistake() -> Outcome {
    served(|| checked::mistakes(&["--dma-mask", "64"], false))
}

pub(super) fn a_shared_buffer() -> Outcome {
    served(sharing::first)
}

pub(super) fn r3_addresses() -> Outcome {
    served(addresses::are_refused_by_another_device)
}

/// What an iommud serves here, which has everything back afterwards.
fn served(work: impl FnOnce() -> Outcome) -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    work()?;
    before.wait_for_return()
}

/// What is promised here is nothing, and nobody is told otherwise.
pub(super) fn a_rogue_is_not_blocked() -> Outcome {
    let _iommud = start_iommud()?;
    let canary = HugePages::new(1)?;
    let address = format!("{:#x}", canary.first());
    let arguments = ["--dma-mask", "64", "--rogue", "physical", "--address", &address];
    run("edud", &arguments)?.expect(3)?.line("NOT BLOCKED")?;
    // Nor where nothing is, though nothing comes back from there.
    let nowhere = run("edud", &["--dma-mask", "64", "--rogue", "read"])?.expect(3)?;
    nowhere.line("NOT BLOCKED (there is no IOMMU that could)")?;
    run("iommuctl", &["faults", "--check"])?.expect(0)?.line("no access was blocked")?;
    Ok(())
}

pub(super) fn iommuctl_shows_it() -> Outcome {
    let _iommud = start_iommud()?;
    let name = devices::edu()?.name();
    let arguments = ["--device", &name, "--dma-mask", "64", "--hold"];
    let mut driver = Program::start("edud", &arguments)?;
    driver.wait_line("holding")?;
    let units = run("iommuctl", &["units"])?.expect(0)?.lines;
    require!(units == ["no IOMMU: devices are NOT CONFINED"], "units: {units:?}");
    for report in ["devices", "groups", "domains", "config"] {
        run("iommuctl", &[report])?.expect(0)?.line("NOT CONFINED")?;
    }
    for Device { device, state, .. } in reports::rows("devices")? {
        require!(state == "NOT CONFINED", "{device} is {state}");
    }
    let mappings = reports::mappings()?;
    let same = mappings.iter().all(|mapping| mapping.iova == mapping.physical);
    require!(same && mappings.len() == 2, "{mappings:x?}");
    Ok(())
}

pub(super) fn beyond_the_mask() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let end = run("edud", &["--dma-mask", "20"])?.expect(1)?;
    end.line("no range of I/O addresses of this size is free below the device's limit")?;
    before.wait_for_return()
}

/// A driver dies while its device is at work. All its memory is taken when it is free: nothing arrives there.
pub(super) fn a_killed_driver() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let edu = devices::edu()?;
    let arguments = ["--device", &edu.name(), "--dma-mask", "64", "--hold"];
    let mut driver = Program::start("edud", &arguments)?;
    driver.wait_line("holding")?;
    let mappings = reports::mappings()?;
    driver.kill()?;
    before.wait_for_return()?;
    require!(!edu.is_bus_master()?, "the device may still make requests");
    let canary = HugePages::new(huge_pages::free()?)?;
    for mapping in &mappings {
        let physical = mapping.physical;
        let there = canary.physical().iter().any(|page| page.abs_diff(physical) < 2 << 20);
        require!(there, "the memory of {:?} at {physical:#x} is nobody's", mapping.label);
    }
    thread::sleep(TRANSFER);
    require!(canary.are_intact()?, "somebody has written to memory that was free");
    Ok(())
}
