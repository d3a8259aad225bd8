//! A driver of base's that was ported by one import, and that pcid-spawner started through `iommu-run` at the start.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use agent::bench::faults;
use agent::disk::{SECTOR, SECTOR_BYTES, WORDS};
use agent::failure::{Failure, Outcome, require};
use agent::reports;

use crate::machine::Machine;

/// A sector that is not in memory comes from the disk by DMA, to a device that is confined.
pub(super) fn gives_its_sector() -> Outcome {
    let machine = Machine::look()?;
    let expected = machine.state_in_use();
    let device = machine.nvme.ok_or_else(|| Failure("there is no NVMe".into()))?;
    let found = reports::device(&device)?;
    require!(found.state == expected, "{device} is {}", found.state);
    require!(found.handles > 0, "no driver has opened {device} at iommud");
    let blocked = faults()?;
    // nvmed's scheme, and its first namespace.
    let path = format!("/scheme/disk.pci-{}-nvme/1", device.replace(':', "-"));
    let mut disk = File::open(&path)?;
    disk.seek(SeekFrom::Start(SECTOR * SECTOR_BYTES as u64))?;
    let mut sector = [0; SECTOR_BYTES];
    disk.read_exact(&mut sector)?;
    let words = String::from_utf8_lossy(&sector[..WORDS.len()]);
    require!(sector.starts_with(WORDS), "sector {SECTOR} of {path} is {words:?}");
    require!(faults()? == blocked, "its device was blocked");
    Ok(())
}
