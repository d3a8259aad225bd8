//! A machine without an IOMMU, on which nothing is confined, and nobody must believe that it is.

use std::fs;

use agent::failure::{Failure, Outcome, require};
use agent::programs::{run, wait_until};
use agent::reports;
use agent::signal::{Signal, send};
use libdma::{Access, Error};

use super::drivers::{BACK, KINDS};
use super::{domain, registers, shared};
use crate::driving::{Courier, LENGTH, drive_with, expect};
use crate::machine::Machine;
use crate::processes::Processes;

/// A policy that lets drivers be served all the same.
const UNPROTECTED: &str = "(without_iommu: unprotected)\n";

/// The same with bounds, and memory set aside: [`BUFFERS`] and [`RESERVE`].
const BOUNDED: &str = r#"(
    without_iommu: unprotected,
    reserve: "8 MiB",
    rules: [(device: "1234:11e8", quotas: (buffers: 8))],
)
"#;
const BUFFERS: usize = 8;
const RESERVE: u64 = 8 << 20;
/// How much of it is taken.
const PART: u64 = 4 << 20;

const MARK: [u8; LENGTH] = *b"from end to end.";

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

pub(super) fn unprotected_where_the_policy_says_so() -> Outcome {
    with_policy(UNPROTECTED, served_unprotected)
}

pub(super) fn shared_where_the_policy_says_so() -> Outcome {
    with_policy(UNPROTECTED, shared::is_sent_and_attached_to_a_second_device)
}

/// No address space but the machine's, and no registers that an iommud knows of that is started late.
pub(super) fn neither_domains_nor_registers() -> Outcome {
    with_policy(UNPROTECTED, || {
        let driver = drive_with(&Machine::bench()?, u64::BITS)?;
        domain::is_none(driver.device())?;
        registers::are_unknown(driver.device())
    })
}

/// What one driver may hold is bounded, and what is set aside is given out, and comes back.
pub(super) fn quotas_and_a_reserve() -> Outcome {
    with_policy(BOUNDED, || {
        let bench = Machine::bench()?;
        require!(reserved()?.starts_with(&format!("0 of {} ", in_mib(RESERVE))), "{}", reserved()?);
        let mut courier = Courier::new(drive_with(&bench, u64::BITS)?)?;
        let device = courier.driver.device().clone();
        let part =
            device.buffer("part of it").access(Access::ReadWrite).contiguous().allocate(PART)?;
        let used = format!("{} of {} ", in_mib(PART), in_mib(RESERVE));
        require!(reserved()?.starts_with(&used), "{}", reserved()?);
        let end = PART as usize - LENGTH;
        let place = part.iova().and_then(|iova| iova.checked_add(end as u64));
        courier.carry(&MARK, place.ok_or(Error::NotMapped)?)?;
        let mut found = [0; LENGTH];
        part.read(end, &mut found)?;
        expect(found, &MARK, "the end of what was set aside")?;

        let mut buffers = Vec::new();
        let refused = loop {
            match device.allocate(4096, None, "one of many") {
                Ok(buffer) => buffers.push(buffer),
                Err(error) => break error,
            }
            require!(buffers.len() < BUFFERS, "a driver may have {BUFFERS} buffers and more");
        };
        require!(refused == Error::QuotaExceeded, "it was refused: {refused}");
        // One is the courier's, and one is that part.
        require!(buffers.len() == BUFFERS - 2, "{} more were allocated", buffers.len());
        drop((part, buffers, device, courier));
        let back = || Ok(reserved()?.starts_with(&format!("0 of {} ", in_mib(RESERVE))));
        wait_until("what was set aside is there again", back)
    })
}

/// As reports say it.
fn in_mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn reserved() -> Outcome<String> {
    reports::setting("contiguous reserve")
}

/// Has an iommud of the test's own serve by a policy, and ends it.
fn with_policy(policy: &str, case: impl FnOnce() -> Outcome) -> Outcome {
    let policy = write_policy(policy)?;
    let iommud = Processes::now();
    run("iommud", &["--policy", &policy])?.expect(0)?;
    let served = case();
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
    let end = bench.edud(&["--dma-mask", "64", "--buffers"])?.expect(0)?;
    let intact = end.lines.iter().filter(|line| line.ends_with(BACK)).count();
    require!(intact == KINDS, "{intact} of {KINDS} kinds: {:?}", end.lines);
    let rogue = bench.edud(&["--dma-mask", "64", "--rogue", "read-only"])?.expect(3)?;
    rogue.line("NOT BLOCKED")?;
    Ok(())
}

/// Writes the policy where there is a place for it.
fn write_policy(policy: &str) -> Outcome<String> {
    let files = FOLDERS.map(|folder| format!("{folder}/iommu-selftest.ron"));
    let written = files.iter().find(|file| fs::write(file, policy).is_ok());
    written.cloned().ok_or_else(|| Failure(format!("none of {files:?} can be written")))
}
