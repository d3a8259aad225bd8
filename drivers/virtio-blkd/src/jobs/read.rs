//! Reading sectors.

use std::io::Write;

use driver_platform as platform;
use virtio_drivers::device::blk::SECTOR_SIZE;

use crate::disk::{Disk, REQUEST};
use crate::error::Error;
use crate::hal::DiskHal;

/// Writes `count` sectors to `out`, and nothing if there are not so many.
pub(crate) fn read(
    disk: &mut Disk<DiskHal>,
    sector: u64,
    count: u64,
    out: &mut dyn Write,
) -> Result<(), Error> {
    disk.check(sector, count)?;
    let mut piece = vec![0; REQUEST];
    let sectors = (REQUEST / SECTOR_SIZE) as u64;
    let mut done = 0;
    while done < count {
        let now = sectors.min(count - done);
        let piece = &mut piece[..now as usize * SECTOR_SIZE];
        disk.read(sector + done, piece)?;
        out.write_all(piece).map_err(platform::Error::system("standard output"))?;
        done += now;
    }
    Ok(out.flush().map_err(platform::Error::system("standard output"))?)
}
