//! Reading without end.

use core::convert::Infallible;
use std::io::Write;

use driver_platform as platform;
use virtio_drivers::device::blk::SECTOR_SIZE;

use crate::disk::{Disk, REQUEST};
use crate::error::Error;
use crate::hal::DiskHal;

/// Reads the whole disk over and over until the process is killed, which will then most likely be in mid-request. Says
/// `holding` on `out` once the first has been answered.
pub(crate) fn hold(disk: &mut Disk<DiskHal>, out: &mut dyn Write) -> Result<Infallible, Error> {
    let mut piece = vec![0; REQUEST];
    let sectors = (REQUEST / SECTOR_SIZE) as u64;
    let mut has_said = false;
    loop {
        let mut sector = 0;
        while sector < disk.capacity() {
            let now = sectors.min(disk.capacity() - sector);
            disk.read(sector, &mut piece[..now as usize * SECTOR_SIZE])?;
            if !has_said {
                writeln!(out, "holding").map_err(platform::Error::system("standard output"))?;
                out.flush().map_err(platform::Error::system("standard output"))?;
                has_said = true;
            }
            sector += now;
        }
        // A disk without sectors would be no reason to take the processor.
        disk.check(0, 1)?;
    }
}
