//! The claimed device with its registers, and a clock.

use std::thread;
use std::time::{Duration, Instant};

use dma_types::Iova;
use libdma::Device;

use super::error::Error;
use crate::bar::Bar;
use crate::edu::{Direction, Edu};

/// How long a transfer may take: `edu` takes 100 ms of the guest's time, and an emulated guest's time may
/// pass slowly.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to sleep between two looks at the device.
const PAUSE: Duration = Duration::from_millis(1);

/// A device that this process drives.
pub struct Driver {
    device: Device,
    edu: Edu<Box<dyn Bar>>,
}

impl Driver {
    /// Takes the device over, with what iommud gave for it and its registers. If its last driver died in a
    /// transfer, that ends first.
    ///
    /// # Errors
    ///
    /// [`Error::Device`].
    pub fn new(device: Device, bar: Box<dyn Bar>) -> Result<Self, Error> {
        let edu = Edu::new(bar)?;
        edu.wait(deadline())?;
        Ok(Self { device, edu })
    }

    /// The device at iommud: where buffers come from.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Moves `bytes` bytes between memory and the start of the device's buffer.
    ///
    /// # Errors
    ///
    /// [`Error::Device`].
    pub fn transfer(
        &mut self,
        direction: Direction,
        iova: Iova,
        bytes: usize,
    ) -> Result<(), Error> {
        Ok(self.edu.transfer(direction, iova, 0, bytes as u64, deadline())?)
    }

    /// Starts such a transfer and does not wait for its end.
    ///
    /// # Errors
    ///
    /// [`Error::Device`].
    pub fn start_transfer(
        &mut self,
        direction: Direction,
        iova: Iova,
        bytes: usize,
    ) -> Result<(), Error> {
        Ok(self.edu.start_transfer(direction, iova, 0, bytes as u64)?)
    }

    /// Whether a transfer runs.
    ///
    /// # Errors
    ///
    /// [`Error::Device`].
    pub fn is_busy(&self) -> Result<bool, Error> {
        Ok(self.edu.is_busy()?)
    }

    /// Waits for the end of the transfer that runs, if one does.
    ///
    /// # Errors
    ///
    /// [`Error::Device`].
    pub fn wait(&self) -> Result<(), Error> {
        Ok(self.edu.wait(deadline())?)
    }
}

/// Pauses each time it is asked, and says when there has been patience enough.
fn deadline() -> impl FnMut() -> bool {
    let end = Instant::now() + PATIENCE;
    move || {
        thread::sleep(PAUSE);
        Instant::now() > end
    }
}
