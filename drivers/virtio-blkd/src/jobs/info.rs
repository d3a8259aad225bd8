//! Saying what disk it is.

use std::io::Write;

use driver_platform as platform;
use libdma::Device;
use virtio_drivers::device::blk::SECTOR_SIZE;

use crate::disk::Disk;
use crate::error::Error;
use crate::hal::DiskHal;

/// Says what disk it is, and what confines it.
pub(crate) fn info(
    disk: &Disk<DiskHal>,
    device: &Device,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let sectors = disk.capacity();
    writeln!(
        out,
        "{} in domain {} (session {}){}\n{sectors} sectors of {SECTOR_SIZE} bytes{}",
        device.address(),
        device.domain(),
        device.generation(),
        if device.is_confined() { "" } else { ": NOT CONFINED, this machine has no IOMMU" },
        if disk.is_read_only() { ", read-only" } else { "" },
    )
    .map_err(platform::Error::system("standard output"))?;
    Ok(())
}
