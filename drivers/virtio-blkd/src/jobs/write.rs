//! Writing sectors.

use std::io::Read;

use driver_platform as platform;
use virtio_drivers::device::blk::SECTOR_SIZE;

use crate::disk::Disk;
use crate::error::Error;
use crate::hal::DiskHal;

/// Writes all of `input` to the disk, and has it put on the medium. Nothing is written of what does not fit (rule R7).
pub(crate) fn write(
    disk: &mut Disk<DiskHal>,
    sector: u64,
    input: &mut dyn Read,
) -> Result<(), Error> {
    if disk.is_read_only() {
        return Err(Error::ReadOnly);
    }
    disk.check(sector, 1)?;
    let room = (disk.capacity() - sector).saturating_mul(SECTOR_SIZE as u64);
    let mut data = Vec::new();
    // One byte more than fits is enough to know that it does not.
    let read = input.take(room.saturating_add(1)).read_to_end(&mut data);
    let bytes = read.map_err(platform::Error::system("standard input"))? as u64;
    if bytes <= room && !bytes.is_multiple_of(SECTOR_SIZE as u64) {
        return Err(Error::NotWhole(bytes));
    }
    disk.check(sector, bytes.div_ceil(SECTOR_SIZE as u64))?;
    disk.write(sector, &data)?;
    disk.flush()
}
