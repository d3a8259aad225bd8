//! The machine, as iommud tells of it.

use agent::bench::Bench;
use agent::failure::{Failure, Outcome, require};
use agent::machine::Found;
use agent::programs::run;
use agent::reports::{self, Device, Unit};

/// QEMU's `edu`, as `iommuctl devices` names it.
const EDU: &str = "1234:11e8";

/// The base class and subclass of NVMe controllers.
const NVME: &str = "0108";

/// The exit code of iommuctl when there is no iommud.
const NOT_RUNNING: i32 = 3;

/// What there is to test, and to test with.
pub(crate) struct Machine {
    /// The IOMMU.
    pub(crate) found: Found,
    /// Its `edu` devices, by address.
    pub(crate) edus: Vec<String>,
    /// Its first NVMe controller that is held, which takes a driver that speaks libdma.
    pub(crate) nvme: Option<String>,
    /// A device that somebody holds already.
    pub(crate) in_use: Option<String>,
    write_only: bool,
}

impl Machine {
    /// Looks at it.
    pub(crate) fn look() -> Outcome<Self> {
        let units = run("iommuctl", &["--json", "units"])?;
        if units.code == Some(NOT_RUNNING) {
            let (found, edus) = (Found::Nothing, Vec::new());
            return Ok(Self { found, edus, nvme: None, in_use: None, write_only: false });
        }
        let units: Vec<Unit> = serde_json::from_str(&units.expect(0)?.lines.join("\n"))?;
        let found = match units.first() {
            None => Found::Nothing,
            Some(unit) => Found::of_kind(&unit.kind)
                .ok_or_else(|| Failure(format!("iommud calls its unit {:?}", unit.kind)))?,
        };
        let mut abilities = units.iter().filter_map(|unit| unit.abilities.as_ref());
        let write_only = abilities.all(|one| one.zero_length_reads);
        let mut devices: Vec<Device> = reports::rows("devices")?;
        let mut held = devices.iter().filter(|device| device.state == "held");
        let in_use = held.clone().next().map(|device| device.device.clone());
        let nvme = held.find(|device| device.class.starts_with(NVME));
        let nvme = nvme.map(|device| device.device.clone());
        devices.retain(|device| device.id == EDU);
        let edus = devices.into_iter().map(|device| device.device).collect();
        Ok(Self { found, edus, nvme, in_use, write_only })
    }

    /// Its first `edu`, and what the unit in front of it can do.
    pub(crate) fn bench() -> Outcome<Bench> {
        Self::look()?.bench_of(0)
    }

    /// Its second.
    pub(crate) fn second_bench() -> Outcome<Bench> {
        Self::look()?.bench_of(1)
    }

    fn bench_of(self, index: usize) -> Outcome<Bench> {
        let count = self.edus.len();
        require!(index < count, "there are only {count} edu devices");
        let device = self.edus.into_iter().nth(index).unwrap_or_default();
        // An edu is in QEMU, and QEMU's AMD-Vi does not tell, or not all.
        Ok(Bench { device, tells: self.found == Found::Vtd, write_only: self.write_only })
    }
}
