//! A disk whose driver's code for virtio is a crate that knows nothing of iommud.

use std::fs;
use std::thread;
use std::time::Duration;

use agent::disk::{SECTOR, SECTOR_BYTES, WORDS, WRITTEN, written};

use super::without_iommu::start_iommud as start_iommud_unprotected;
use crate::devices::{self, Function};
use crate::failure::{Outcome, require};
use crate::huge_pages::HugePages;
use crate::programs::{End, Program, run, start_iommud};
use crate::reports::{self, wait_for_fault};
use crate::traces::Traces;
use crate::unit::Unit;

/// How often a driver is killed, each time a little later.
const KILLS: u32 = 6;
const STEP: Duration = Duration::from_millis(7);

/// The known sector, whole.
fn known() -> Vec<u8> {
    let mut sector = WORDS.to_vec();
    sector.resize(SECTOR_BYTES, 0);
    sector
}

/// Runs the driver with these words, and its input and output in files where they are given.
fn driver(disk: &Function, words: &str, files: &str) -> Outcome<End> {
    let line = format!("virtio-blkd --device {} {words} {files}", disk.name());
    run("sh", &["-c", &line])
}

/// What the driver reads.
fn read(disk: &Function, sector: u64, count: usize) -> Outcome<Vec<u8>> {
    driver(disk, &format!("read {sector} {count}"), "> /tmp/read")?.expect(0)?;
    Ok(fs::read("/tmp/read")?)
}

fn reads_the_known_sector(disk: &Function) -> Outcome {
    require!(read(disk, SECTOR, 1)? == known(), "sector {SECTOR} has something else");
    Ok(())
}

/// Writes, and has another process see whether it is there.
fn writes_and_reads_back(disk: &Function) -> Outcome {
    let data = written();
    fs::write("/tmp/write", &data)?;
    driver(disk, &format!("write {WRITTEN}"), "< /tmp/write")?.expect(0)?;
    let found = read(disk, WRITTEN, data.len() / SECTOR_BYTES)?;
    require!(found == data, "what was written at sector {WRITTEN} is not there");
    Ok(())
}

pub(super) fn is_read() -> Outcome {
    let _iommud = start_iommud()?;
    let (before, disk) = (Traces::now()?, devices::disk()?);
    reads_the_known_sector(&disk)?;
    before.wait_for_return()?;
    let end = driver(&disk, "info", "")?.expect(0)?;
    end.line("2048 sectors of 512 bytes")?;
    let end = driver(&disk, "read 2047 2", "")?.expect(1)?;
    end.line("sectors 2047 to 2048 were asked for, and the disk has 2048")?;
    before.wait_for_return()
}

pub(super) fn is_written() -> Outcome {
    let _iommud = start_iommud()?;
    let (before, disk) = (Traces::now()?, devices::disk()?);
    writes_and_reads_back(&disk)?;
    // Nothing is written of what does not fit, or is no whole sector.
    driver(&disk, "write 2000", "< /tmp/write")?.expect(1)?;
    fs::write("/tmp/odd", &written()[..700])?;
    let end = driver(&disk, "write 0", "< /tmp/odd")?.expect(1)?;
    end.line("standard input has 700 bytes")?;
    before.wait_for_return()?;
    run("iommuctl", &["faults", "--check"])?.expect(0)?;
    Ok(())
}

/// All that is mapped for the disk is its queue and windows for copies, none of it at a physical address, and each for
/// what is done there alone.
pub(super) fn what_is_mapped() -> Outcome {
    let _iommud = start_iommud()?;
    let (before, disk) = (Traces::now()?, devices::disk()?);
    let mut driver = Program::start("virtio-blkd", &["--device", &disk.name(), "hold"])?;
    driver.wait_line("holding")?;
    let mut mappings = reports::mappings()?;
    require!(mappings.iter().all(|it| it.iova != it.physical), "{mappings:x?}");
    mappings.retain(|it| it.label == "virtio queue");
    let mut queue: Vec<_> = mappings.iter().map(|it| &*it.access).collect();
    queue.sort_unstable();
    require!(queue == ["r-", "rw"], "the queue is mapped {queue:?}");
    let written = if Unit::find()?.can_map_write_only()? { "-w" } else { "rw" };
    let windows: Vec<_> =
        reports::mappings()?.into_iter().filter(|it| it.label != "virtio queue").collect();
    for access in ["r-", written] {
        let found = windows.iter().any(|it| it.access == access);
        require!(found, "no window is mapped {access}: {windows:x?}");
    }
    driver.kill()?;
    before.wait_for_return()
}

/// The disk would take I/O addresses for physical ones, and nothing would hold it back.
pub(super) fn past_the_iommu() -> Outcome {
    let _iommud = start_iommud()?;
    let before = Traces::now()?;
    let [_, disk] = devices::both_disks()?;
    let end = driver(&disk, "read 0", "")?.expect(1)?;
    end.line("it does not offer VIRTIO_F_ACCESS_PLATFORM")?;
    before.wait_for_return()
}

/// The driver has the disk put a sector into memory that is nobody's business of it: by its physical address, which is
/// all that there would be without an IOMMU.
pub(super) fn rogue() -> Outcome {
    let _iommud = start_iommud()?;
    let (before, disk) = (Traces::now()?, devices::disk()?);
    let canary = HugePages::new(1)?;
    driver(&disk, &format!("rogue {SECTOR} {:#x}", canary.first()), "")?.expect(0)?;
    require!(canary.are_intact()?, "the sector is in memory that was never mapped");
    wait_for_fault(&disk.name(), "write", canary.first())?;
    drop(canary);
    before.wait_for_return()?;
    reads_the_known_sector(&disk)?;
    before.wait_for_return()
}

/// The next driver can have the disk at once, whatever the disk was at when the one before died.
pub(super) fn killed() -> Outcome {
    let _iommud = start_iommud()?;
    let (before, disk) = (Traces::now()?, devices::disk()?);
    for kill in 0..KILLS {
        let mut driver = Program::start("virtio-blkd", &["--device", &disk.name(), "hold"])?;
        driver.wait_line("holding")?;
        require!(disk.is_bus_master()?, "the disk is at work and may make no requests");
        thread::sleep(STEP * kill);
        driver.kill()?;
        if kill % 2 == 0 {
            reads_the_known_sector(&disk)?;
        } else {
            before.wait_for_return()?;
            require!(!disk.is_bus_master()?, "the disk may still make requests");
        }
    }
    before.wait_for_return()
}

pub(super) fn without_iommu() -> Outcome {
    let _iommud = start_iommud_unprotected()?;
    let before = Traces::now()?;
    let [disk, other] = devices::both_disks()?;
    driver(&disk, "info", "")?.expect(0)?.line("NOT CONFINED, this machine has no IOMMU")?;
    reads_the_known_sector(&disk)?;
    writes_and_reads_back(&disk)?;
    // One that takes physical addresses is given such.
    require!(read(&other, 0, 1)? == vec![0; SECTOR_BYTES], "the empty disk has something in it");
    before.wait_for_return()
}

/// What is blocked elsewhere is not blocked here, so that the cases of blocking show something.
pub(super) fn rogue_without_iommu() -> Outcome {
    let _iommud = start_iommud_unprotected()?;
    let (disk, canary) = (devices::disk()?, HugePages::new(1)?);
    driver(&disk, &format!("rogue {SECTOR} {:#x}", canary.first()), "")?.expect(0)?;
    let found = canary.map().read64(0)?.to_le_bytes();
    require!(found == WORDS[..8], "the sector did not arrive: {found:x?}");
    Ok(())
}
