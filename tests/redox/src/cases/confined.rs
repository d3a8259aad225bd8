//! Drivers that `iommu-run` starts, as pcid-spawner would: with the function's channel, which it leaves open for them.

use std::fs::File;
use std::process::Command;
use std::thread;
use std::time::Duration;

use agent::bench::faults;
use agent::disk::{SECTOR, WORDS};
use agent::failure::{Failure, Outcome, require};
use agent::inherit::let_inherit;
use agent::programs::{End, Program, run};
use agent::signal::{Signal, send};
use agent::traces::Traces;
use dma_types::PciAddress;

use super::restart::streamed;
use crate::machine::{Machine, VIRTIO_DRIVER, beside};
use crate::prisoner::{OPENED, PRISONER, REFUSED};
use crate::processes::{Processes, another_serves, keeper_and_server};

/// The variable in which pcid-spawner names a function's channel.
const CHANNEL_VARIABLE: &str = "PCID_CLIENT_CHANNEL";

/// How often iommud dies under a driver.
const DEATHS: u32 = 2;

/// For how long what a driver had stays its own when it does not come back, and some more.
const ORPHANED: Duration = Duration::from_secs(12);

pub(super) fn works() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    let end = by_iommu_run(&bench.device, "edud", &["--rounds", "2"])?.expect(0)?;
    for round in ["round 1/2", "round 2/2"] {
        require!(end.line(round)?.ends_with("intact"), "the data is not intact");
    }
    before.wait_for_return()
}

/// A disk whose driver's code for virtio is a crate that knows nothing of iommud.
pub(super) fn reads_a_virtio_disk() -> Outcome {
    let disk = Machine::look()?.virtio_disk.ok_or_else(|| Failure("there is no disk".into()))?;
    let (before, blocked) = (Traces::now()?, faults()?);
    let end = by_iommu_run(&disk, VIRTIO_DRIVER, &["read", &SECTOR.to_string()])?.expect(0)?;
    end.line(&String::from_utf8_lossy(WORDS))?;
    before.wait_for_return()?;
    require!(faults()? == blocked, "the disk was blocked");
    Ok(())
}

/// A driver that sees no `iommu` has its session again all the same when iommud was killed.
pub(super) fn outlives_iommud() -> Outcome {
    let bench = Machine::bench()?;
    let before = Traces::now()?;
    let mut driver = start_by_iommu_run(&bench.device, "edud", &["--rounds", "100000"])?;
    driver.wait_line("intact")?;
    let mapped = streamed()?;
    require!(mapped.len() == 2, "what is streamed from and to is {mapped:x?}");
    for _ in 0..DEATHS {
        let [_, served] = keeper_and_server()?;
        send(served, Signal::Kill)?;
        another_serves(served)?;
        // Later than what does not come back is cut off.
        thread::sleep(ORPHANED);
        driver.skip_lines();
        driver.wait_line("intact")?;
        driver.wait_line("intact")?;
        let after = streamed()?;
        require!(after == mapped, "{after:x?} are mapped instead of {mapped:x?}");
    }
    // What runs besides is libdma's looking after the session, and a request or two.
    let threads = Processes::now().threads(driver.id());
    require!((1..=4).contains(&threads), "the driver has {threads} threads");
    driver.kill()?;
    before.wait_for_return()
}

/// A program that tries to open what would undo confinement. Without `iommu-run`, it can.
pub(super) fn reaches_nothing_else() -> Outcome {
    let [bench, other] = [Machine::bench()?, Machine::second_bench()?];
    let other = path_name(&other.device)?;
    let paths = [
        format!("/scheme/iommu/device/{other}"),
        "/scheme/iommu/units".into(),
        format!("/scheme/pci/{other}/channel"),
        "/scheme/pci/access".into(),
        "/scheme/memory/physical@uc".into(),
        "/scheme/memory/zeroed@wb?phys_contiguous".into(),
    ];
    let words: Vec<&str> = [PRISONER].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let free = run("iommu-selftest", &words)?.expect(0)?;
    let confined = by_iommu_run(&bench.device, "iommu-selftest", &words)?.expect(0)?;
    for path in &paths {
        let (may, may_not) = (free.line(path)?, confined.line(path)?);
        require!(may.ends_with(OPENED), "without iommu-run: {may}");
        require!(may_not.contains(REFUSED), "with iommu-run: {may_not}");
    }
    nothing_else_below_its_folder(&bench.device, &other)
}

/// In the folder where such a program works there is nothing but where its own session is resumed.
fn nothing_else_below_its_folder(device: &str, other: &str) -> Outcome {
    let own = format!("resume/{}", path_name(device)?);
    let paths = [
        format!("resume/{other}"),
        format!("device/{other}"),
        format!("device/{}", path_name(device)?),
        format!("quarantine/{}", path_name(device)?),
        format!("{own}/"),
        "units".into(),
        "resume".into(),
        "../iommu/units".into(),
    ];
    let words: Vec<&str> =
        [PRISONER, &own].into_iter().chain(paths.iter().map(String::as_str)).collect();
    let end = by_iommu_run(device, "iommu-selftest", &words)?.expect(0)?;
    for path in &paths {
        let line = end.line(&format!("{path}{REFUSED}"))?;
        require!(line.starts_with(path.as_str()), "{line}");
    }
    end.line(&format!("{own}{OPENED}")).map(drop)
}

/// Runs a program that is beside this one as the driver of this device.
fn by_iommu_run(device: &str, program: &str, words: &[&str]) -> Outcome<End> {
    start_by_iommu_run(device, program, words)?.finish()
}

/// Starts one.
fn start_by_iommu_run(device: &str, program: &str, words: &[&str]) -> Outcome<Program> {
    let path = format!("/scheme/pci/{}/channel", path_name(device)?);
    let channel = File::options().read(true).write(true).open(path)?;
    let number = let_inherit(&channel)?;
    let mut command = Command::new("iommu-run");
    command.arg(beside(program)?).args(words).env(CHANNEL_VARIABLE, number.to_string());
    let driver = Program::from_command(command)?;
    drop(channel);
    Ok(driver)
}

fn path_name(device: &str) -> Outcome<String> {
    let address: PciAddress =
        device.parse().map_err(|_| Failure(format!("{device} is no PCI address")))?;
    Ok(address.path_name().to_string())
}
