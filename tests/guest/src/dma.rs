//! The devices driven by the agent itself, past iommud and libdma: what any process could make of a device
//! whose registers it reaches.

use std::thread;
use std::time::{Duration, Instant};

use dma_types::Iova;
use edud::{Bar, Direction, Edu};

use crate::devices::Function;
use crate::failure::Outcome;
use crate::map::Map;

/// How long a transfer may take: `edu` takes 100 ms of the guest's time.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);

/// A device's BAR.
struct Registers(Map);

impl Bar for Registers {
    fn read32(&self, offset: usize) -> u32 {
        self.0.read32(offset).unwrap_or(u32::MAX)
    }

    fn write32(&self, offset: usize, value: u32) {
        // A write outside the BAR is lost, as the trait says.
        let _ = self.0.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.0.read64(offset).unwrap_or(u64::MAX)
    }

    fn write64(&self, offset: usize, value: u64) {
        let _ = self.0.write64(offset, value);
    }
}

/// Whether a device is in the middle of a transfer.
pub(crate) fn is_busy(function: &Function) -> Outcome<bool> {
    Ok(Edu::new(Registers(function.bar0()?))?.is_busy()?)
}

/// Lets a device move `bytes` bytes between this address, whatever it is, and its own buffer, and waits for
/// the end of it. Bus mastering is turned on for that.
pub(crate) fn transfer(
    function: &Function,
    direction: Direction,
    address: u64,
    bytes: u64,
) -> Outcome {
    function.enable()?;
    let mut edu = Edu::new(Registers(function.bar0()?))?;
    let end = Instant::now() + PATIENCE;
    let expired = || {
        thread::sleep(PAUSE);
        Instant::now() > end
    };
    // What somebody else has started ends first.
    edu.wait(expired)?;
    Ok(edu.transfer(direction, Iova::new(address), 0, bytes, expired)?)
}
