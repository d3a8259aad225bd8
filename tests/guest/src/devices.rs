//! PCI functions as sysfs shows them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use agent::bench::Bench;

use crate::failure::{Failure, Outcome, require};
use crate::map::Map;
use crate::unit::Unit;

const FUNCTIONS: &str = "/sys/bus/pci/devices";

/// QEMU's `edu`: vendor and device.
const EDU: (u16, u16) = (0x1234, 0x11e8);

/// A virtio disk: vendor and device.
const DISK: (u16, u16) = (0x1af4, 0x1042);

/// Where the command register is in configuration space.
const COMMAND: u64 = 0x04;

/// The command register's bits that let a function answer on its BARs and do DMA (PCI 3.0, 6.2.2).
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// A PCI function.
pub(crate) struct Function {
    /// Its directory in sysfs.
    path: PathBuf,
}

/// All `edu` devices, by address.
pub(crate) fn edus() -> Outcome<Vec<Function>> {
    all(EDU)
}

/// The two disks: the one that uses the IOMMU, and the one that does not.
pub(crate) fn both_disks() -> Outcome<[Function; 2]> {
    let disks = all(DISK)?;
    let count = disks.len();
    disks.try_into().map_err(|_| Failure(format!("{count} virtio disks instead of 2")))
}

/// The disk that uses the IOMMU.
pub(crate) fn disk() -> Outcome<Function> {
    let [disk, _] = both_disks()?;
    Ok(disk)
}

/// All functions of this vendor that are this device, by address.
fn all(identity: (u16, u16)) -> Outcome<Vec<Function>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(FUNCTIONS)? {
        let function = Function { path: entry?.path() };
        if (function.number("vendor")?, function.number("device")?) == identity {
            found.push(function);
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The two devices: one on the root bus, and one behind a port where this QEMU's unit sees past it.
pub(crate) fn both_edus() -> Outcome<[Function; 2]> {
    let edus = edus()?;
    let count = edus.len();
    edus.try_into().map_err(|_| Failure(format!("{count} edu devices instead of 2")))
}

/// The first of them, on the root bus.
pub(crate) fn edu() -> Outcome<Function> {
    let [edu, _] = both_edus()?;
    Ok(edu)
}

/// A driver of the first, and what the unit in front of it can do.
pub(crate) fn bench() -> Outcome<Bench> {
    let unit = Unit::find()?;
    let (tells, write_only) = (unit.tells_what_it_blocks(), unit.can_map_write_only()?);
    Ok(Bench { device: edu()?.name(), tells, write_only })
}

impl Function {
    /// Its address in Linux's words: `0000:00:04.0`.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Enables the function, and lets it answer on its BARs and do DMA.
    pub(crate) fn enable(&self) -> Outcome {
        fs::write(self.path.join("enable"), "1")?;
        let command = self.command()? | MEMORY_SPACE | BUS_MASTER;
        let config = OpenOptions::new().write(true).open(self.path.join("config"))?;
        config.write_all_at(&command.to_le_bytes(), COMMAND)?;
        Ok(())
    }

    /// Whether the function may do DMA, as far as PCI is concerned.
    pub(crate) fn is_bus_master(&self) -> Outcome<bool> {
        Ok(self.command()? & BUS_MASTER != 0)
    }

    fn command(&self) -> Outcome<u16> {
        let mut command = [0; 2];
        File::open(self.path.join("config"))?.read_exact_at(&mut command, COMMAND)?;
        Ok(u16::from_le_bytes(command))
    }

    /// Maps BAR 0.
    pub(crate) fn bar0(&self) -> Outcome<Map> {
        let resource = self.path.join("resource0");
        let bytes = usize::try_from(fs::metadata(&resource)?.len())?;
        require!(bytes > 0, "{} has no BAR 0", self.name());
        Map::of_file(Path::new(&resource), 0, bytes)
    }

    fn number(&self, file: &str) -> Outcome<u16> {
        let text = fs::read_to_string(self.path.join(file))?;
        Ok(u16::from_str_radix(text.trim().trim_start_matches("0x"), 16)?)
    }
}
