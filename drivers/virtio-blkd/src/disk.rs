//! Requests, each with a deadline.

use core::mem;
use std::thread;
use std::time::{Duration, Instant};

use libdma::virtio::Translated;
use virtio_drivers::Hal;
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::pci::PciTransport;

use super::error::Error;
use super::hal::DiskHal;

/// How many bytes a request moves at the most.
pub(crate) const REQUEST: usize = 64 * 1024;

/// How long a disk may take for a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a disk is looked at without a pause: longer than most requests take.
const BUSY: Duration = Duration::from_micros(50);

/// How long to sleep between two looks then.
const PAUSE: Duration = Duration::from_micros(200);

type Driver<H> = VirtIOBlk<H, Translated<PciTransport>>;

/// A disk that this process drives.
pub(crate) struct Disk<H: Hal> {
    /// `None` after a request without an answer, which the disk may still be at.
    driver: Option<Driver<H>>,
    capacity: u64,
    is_read_only: bool,
}

impl<H: Hal> Disk<H> {
    /// Starts a disk that has been reset.
    pub(crate) fn start(transport: Translated<PciTransport>) -> Result<Self, Error> {
        let mut driver = Driver::<H>::new(transport).map_err(cause)?;
        driver.disable_interrupts();
        let (capacity, is_read_only) = (driver.capacity(), driver.readonly());
        Ok(Self { driver: Some(driver), capacity, is_read_only })
    }

    /// How many sectors it has.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether it cannot be written to.
    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// That there are sectors from here on for so many bytes.
    pub(crate) fn check(&self, sector: u64, count: u64) -> Result<(), Error> {
        match sector.checked_add(count) {
            _ if count == 0 => Err(Error::NoSectors),
            Some(end) if end <= self.capacity => Ok(()),
            _ => Err(Error::NoSuchSectors { sector, count, capacity: self.capacity }),
        }
    }

    /// Reads sectors: as many as are in `out`.
    pub(crate) fn read(&mut self, sector: u64, out: &mut [u8]) -> Result<(), Error> {
        self.check(sector, (out.len() / SECTOR_SIZE) as u64)?;
        for (index, piece) in out.chunks_mut(REQUEST).enumerate() {
            let first = sector as usize + index * (REQUEST / SECTOR_SIZE);
            let (mut request, mut result) = (BlkReq::default(), BlkResp::default());
            let driver = self.driver.as_mut().ok_or(Error::Silent(PATIENCE))?;
            // SAFETY: all three are used again only when the request has been completed. If it never is, the driver is
            // forgotten, and with it every way to them: the disk itself has a copy.
            let token = unsafe { driver.read_blocks_nb(first, &mut request, piece, &mut result) }?;
            self.wait(token)?;
            let driver = self.driver.as_mut().ok_or(Error::Silent(PATIENCE))?;
            // SAFETY: they are those that the token is of.
            unsafe { driver.complete_read_blocks(token, &request, piece, &mut result) }?;
        }
        Ok(())
    }

    /// Writes sectors: as many as are in `data`.
    pub(crate) fn write(&mut self, sector: u64, data: &[u8]) -> Result<(), Error> {
        self.check(sector, (data.len() / SECTOR_SIZE) as u64)?;
        if self.is_read_only {
            return Err(Error::ReadOnly);
        }
        for (index, piece) in data.chunks(REQUEST).enumerate() {
            let first = sector as usize + index * (REQUEST / SECTOR_SIZE);
            let (mut request, mut result) = (BlkReq::default(), BlkResp::default());
            let driver = self.driver.as_mut().ok_or(Error::Silent(PATIENCE))?;
            // SAFETY: as in `read`.
            let token = unsafe { driver.write_blocks_nb(first, &mut request, piece, &mut result) }?;
            self.wait(token)?;
            let driver = self.driver.as_mut().ok_or(Error::Silent(PATIENCE))?;
            // SAFETY: they are those that the token is of.
            unsafe { driver.complete_write_blocks(token, &request, piece, &mut result) }?;
        }
        Ok(())
    }

    /// Has the disk put what was written on its medium. This virtio-drivers waits for without a deadline, of a disk that
    /// has answered until now.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        Ok(self.driver.as_mut().ok_or(Error::Silent(PATIENCE))?.flush()?)
    }

    /// Waits for the end of the request of this token, the only one there is.
    fn wait(&mut self, token: u16) -> Result<(), Error> {
        let start = Instant::now();
        while self.driver.as_mut().and_then(|driver| driver.peek_used()) != Some(token) {
            let taken = start.elapsed();
            if taken > PATIENCE {
                // Its end would be to wait for the end of a reset, without a deadline. The process's end is enough.
                mem::forget(self.driver.take());
                return Err(Error::Silent(PATIENCE));
            }
            if taken > BUSY {
                thread::sleep(PAUSE);
            }
        }
        Ok(())
    }
}

/// Why there is no memory is known to the `Hal` alone.
fn cause(error: virtio_drivers::Error) -> Error {
    match (error, DiskHal::take_error()) {
        (virtio_drivers::Error::DmaError, Some(why)) => why.into(),
        (error, _) => error.into(),
    }
}
