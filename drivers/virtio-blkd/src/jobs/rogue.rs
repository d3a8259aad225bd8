//! Misbehaving: a sector goes where no memory was given to the disk.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use driver_platform as platform;
use libdma::Device;
use virtio_drivers::device::blk::SECTOR_SIZE;

use crate::disk::Disk;
use crate::error::Error;
use crate::hal::Astray;

/// How long after a blocked access to wait for its fault: iommud looks for faults many times in it.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long to sleep between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Has the disk put a sector at an address, and says what it answered and what the IOMMU blocked.
pub(crate) fn rogue(
    mut disk: Disk<Astray>,
    device: &Device,
    sector: u64,
    address: u64,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut data = [0; SECTOR_SIZE];
    let answer = match disk.read(sector, &mut data) {
        Ok(()) => "that it did".to_owned(),
        Err(error @ (Error::Disk(_) | Error::Silent(_))) => error.to_string(),
        Err(error) => return Err(error),
    };
    let failed = platform::Error::system("standard output");
    let told =
        writeln!(out, "sector {sector} was to go to I/O {address:#x}; the disk says: {answer}");
    told.map_err(failed)?;
    let end = Instant::now() + PATIENCE;
    let mut blocked = device.events()?.events;
    while blocked.is_empty() && Instant::now() < end {
        thread::sleep(PAUSE);
        blocked = device.events()?.events;
    }
    if blocked.is_empty() {
        let none = "the device's handle tells of no fault: no IOMMU has recorded one";
        writeln!(out, "{none}").map_err(platform::Error::system("standard output"))?;
    }
    for event in blocked {
        let told = writeln!(out, "the device's handle tells: {event}");
        told.map_err(platform::Error::system("standard output"))?;
    }
    Ok(())
}
