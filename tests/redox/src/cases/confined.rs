//! Drivers that `iommu-run` starts, as pcid-spawner would: with the function's channel, which it leaves open for them.

use std::fs::File;
use std::process::Command;

use agent::bench::faults;
use agent::disk::{SECTOR, WORDS};
use agent::failure::{Failure, Outcome, require};
use agent::inherit::let_inherit;
use agent::programs::{End, Program, run};
use agent::traces::Traces;
use dma_types::PciAddress;

use crate::machine::{Machine, VIRTIO_DRIVER, beside};
use crate::prisoner::{OPENED, PRISONER, REFUSED};

/// The variable in which pcid-spawner names a function's channel.
const CHANNEL_VARIABLE: &str = "PCID_CLIENT_CHANNEL";

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
    Ok(())
}

/// Runs a program that is beside this one as the driver of this device.
fn by_iommu_run(device: &str, program: &str, words: &[&str]) -> Outcome<End> {
    let path = format!("/scheme/pci/{}/channel", path_name(device)?);
    let channel = File::options().read(true).write(true).open(path)?;
    let number = let_inherit(&channel)?;
    let mut command = Command::new("iommu-run");
    command.arg(beside(program)?).args(words).env(CHANNEL_VARIABLE, number.to_string());
    let driver = Program::from_command(command)?;
    drop(channel);
    driver.finish()
}

fn path_name(device: &str) -> Outcome<String> {
    let address: PciAddress =
        device.parse().map_err(|_| Failure(format!("{device} is no PCI address")))?;
    Ok(address.path_name().to_string())
}
