//! The machine, as iommud tells of it.

use std::env;
use std::fs;
use std::path::PathBuf;

use agent::bench::Bench;
use agent::failure::{Failure, Outcome, require};
use agent::machine::Found;
use agent::programs::run;
use agent::reports::{self, Device, Unit};

/// QEMU's `edu`, as `iommuctl devices` names it.
const EDU: &str = "1234:11e8";

/// A virtio disk, as `iommuctl devices` names it.
const VIRTIO_DISK: &str = "1af4:1042";

/// Its driver, where this program is, too.
pub(crate) const VIRTIO_DRIVER: &str = "virtio-blkd";

/// The base class and subclass of NVMe controllers.
const NVME: &str = "0108";

/// Where pcid-spawner finds which driver a function has, and how it is started.
const DRIVER_FOLDERS: [&str; 3] = ["/scheme/initfs/lib/pcid.d", "/usr/lib/pcid.d", "/etc/pcid.d"];

/// The exit code of iommuctl when there is no iommud.
const NOT_RUNNING: i32 = 3;

/// What there is to test, and to test with.
pub(crate) struct Machine {
    /// The IOMMU.
    pub(crate) found: Found,
    /// Its `edu` devices, by address.
    pub(crate) edus: Vec<String>,
    /// Whether iommud serves.
    pub(crate) is_served: bool,
    /// Its first NVMe controller, if `iommu-run` is to start a driver for such.
    pub(crate) nvme: Option<String>,
    /// Its first NVMe controller, if nobody holds it and none is to start a driver for it.
    pub(crate) free_nvme: Option<String>,
    /// Its first virtio disk that nobody holds, if the program that drives such is there.
    pub(crate) virtio_disk: Option<String>,
    /// A device that somebody holds already.
    pub(crate) in_use: Option<String>,
    write_only: bool,
}

impl Machine {
    /// Looks at it.
    pub(crate) fn look() -> Outcome<Self> {
        let units = run("iommuctl", &["--json", "units"])?;
        if units.code == Some(NOT_RUNNING) {
            return Ok(Self {
                found: Found::Nothing,
                edus: Vec::new(),
                is_served: false,
                nvme: None,
                free_nvme: None,
                virtio_disk: None,
                in_use: None,
                write_only: false,
            });
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
        let in_use = devices.iter().find(|device| device.handles > 0);
        let in_use = in_use.map(|device| device.device.clone());
        let nvme = devices.iter().find(|device| device.class.starts_with(NVME));
        let is_driven = nvme_driver_is_wanted();
        let free_nvme = nvme.filter(|device| !is_driven && device.handles == 0);
        let free_nvme = free_nvme.map(|device| device.device.clone());
        let nvme = nvme.map(|device| device.device.clone()).filter(|_| is_driven);
        let mut disks = devices.iter().filter(|device| device.id == VIRTIO_DISK);
        let disk = disks.find(|device| device.handles == 0);
        let virtio_disk = disk.map(|device| device.device.clone());
        let virtio_disk =
            virtio_disk.filter(|_| beside(VIRTIO_DRIVER).is_ok_and(|it| it.is_file()));
        devices.retain(|device| device.id == EDU);
        let edus = devices.into_iter().map(|device| device.device).collect();
        let is_served = true;
        Ok(Self { found, edus, is_served, nvme, free_nvme, virtio_disk, in_use, write_only })
    }

    /// What a device is said to be while a driver has it.
    pub(crate) fn state_in_use(&self) -> &'static str {
        if self.found == Found::Nothing { "NOT CONFINED" } else { "held" }
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

/// A program that is where this one is.
pub(crate) fn beside(program: &str) -> Outcome<PathBuf> {
    Ok(env::current_exe()?.with_file_name(program))
}

/// Whether `iommu-run` is to start a driver for NVMe disks. That it does is for a case to show.
fn nvme_driver_is_wanted() -> bool {
    let folders = DRIVER_FOLDERS.iter().filter_map(|folder| fs::read_dir(folder).ok());
    let files = folders.flatten().flatten();
    let mut entries = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    entries.any(|entry| {
        let mut lines = entry.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        lines.any(|line| line.contains("/iommu-run\"") && line.contains("/nvmed\""))
    })
}
