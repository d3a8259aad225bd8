//! A machine without an IOMMU, on which nothing is confined, and nobody must believe that it is.

use std::fs;

use agent::failure::{Failure, Outcome, require};
use agent::programs::{run, wait_until};
use agent::reports;
use agent::signal::{Signal, send};

use crate::machine::Machine;
use crate::processes::Processes;

/// A policy that lets drivers be served all the same.
const UNPROTECTED: &str = "(without_iommu: unprotected)\n";

/// Folders that can be written: the usual one, and the one that there is in the initfs.
const FOLDERS: [&str; 2] = ["/tmp", "/scheme/logging"];

pub(super) fn iommud_says_so() -> Outcome {
    run("iommud", &[])?.expect(2)?.line("the firmware describes no IOMMU")?;
    Ok(())
}

pub(super) fn nobody_is_served() -> Outcome {
    let absent = run("iommuctl", &["devices"])?.expect(3)?;
    absent.line("iommuctl: iommud is not running at /scheme/iommu")?;
    run("iommuctl", &["plan"])?.line("iommud WOULD NOT START: the firmware describes no IOMMU")?;
    Ok(())
}

/// By an iommud of the test's own, which it ends.
pub(super) fn unprotected_where_the_policy_says_so() -> Outcome {
    let policy = write_policy()?;
    let iommud = Processes::now();
    run("iommud", &["--policy", &policy])?.expect(0)?;
    let served = served_unprotected();
    // Whoever watches goes first, so that the other is not started again.
    for process in Processes::now().of("iommud") {
        if !iommud.of("iommud").contains(&process) {
            send(process, Signal::Kill)?;
        }
    }
    served?;
    wait_until("nobody serves", || Ok(run("iommuctl", &["units"])?.code == Some(3)))
}

/// Whoever looks, and each driver, is told. What is not blocked is not said to be.
pub(super) fn served_unprotected() -> Outcome {
    run("iommuctl", &["units"])?.expect(0)?.line("no IOMMU: devices are NOT CONFINED")?;
    let told = reports::setting("IOMMU")?;
    require!(told.contains("NOT CONFINED"), "config says of the IOMMU {told:?}");
    let bench = Machine::bench()?;
    let device = reports::device(&bench.device)?;
    require!(device.state == "NOT CONFINED", "{} is {}", device.device, device.state);
    // Addresses are physical ones, and must be within the reach of the device.
    let end = bench.edud(&["--dma-mask", "64", "--rounds", "2"])?.expect(0)?;
    end.line("NOT CONFINED")?;
    for round in ["round 1/2", "round 2/2"] {
        require!(end.line(round)?.ends_with("intact"), "the data is not intact");
    }
    let rogue = bench.edud(&["--dma-mask", "64", "--rogue", "read-only"])?.expect(3)?;
    rogue.line("NOT BLOCKED")?;
    Ok(())
}

/// Writes the policy where there is a place for it.
fn write_policy() -> Outcome<String> {
    let files = FOLDERS.map(|folder| format!("{folder}/iommu-selftest.ron"));
    let written = files.iter().find(|file| fs::write(file, UNPROTECTED).is_ok());
    written.cloned().ok_or_else(|| Failure(format!("none of {files:?} can be written")))
}
