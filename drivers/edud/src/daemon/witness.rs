//! Seeing by the device's own buffer what a transfer has moved.

use dma_types::Iova;
use libdma::Coherent;

use super::driver::Driver;
use super::error::Error;
use crate::edu::Direction;

/// How long the transfers are.
pub(super) const PROBE_BYTES: usize = 512;
/// What is in memory that the device must not reach.
pub(super) const SECRET: u8 = 0x5e;
/// What is in the device's buffer before.
const MARK: u8 = 0xa7;

/// What a device got that read where it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing: zeroes, or ones, as from memory that does not answer, or its buffer is as it was.
    Nothing,
    /// What the driver had put there.
    Secret,
    /// Something else.
    Something,
}

/// A driver, and memory that its device may use, to look into the device.
pub(super) struct Witness<'a> {
    driver: &'a mut Driver,
    memory: Coherent<[u8]>,
}

impl<'a> Witness<'a> {
    /// Shows that the device reads and writes what it may.
    pub(super) fn new(driver: &'a mut Driver) -> Result<Self, Error> {
        let memory = driver.device().coherent("edud witness").bytes(PROBE_BYTES)?;
        let mut witness = Self { driver, memory };
        witness.load()?;
        match witness.unload()?.iter().position(|byte| *byte != MARK) {
            None => Ok(witness),
            Some(index) => Err(Error::Inert { iova: witness.memory.iova(), index }),
        }
    }

    /// Lets the device read from `iova`; what it got.
    pub(super) fn device_reads(&mut self, iova: Iova) -> Result<Seen, Error> {
        self.load()?;
        self.driver.transfer(Direction::ToDevice, iova, PROBE_BYTES)?;
        let got = self.unload()?;
        let all = |byte: u8| got.iter().all(|each| *each == byte);
        Ok(if all(SECRET) {
            Seen::Secret
        } else if all(MARK) || all(0) || all(0xff) {
            Seen::Nothing
        } else {
            Seen::Something
        })
    }

    /// Lets the device write to `iova` something that differs from the secret in every byte.
    pub(super) fn device_writes(&mut self, iova: Iova) -> Result<(), Error> {
        self.load()?;
        self.driver.transfer(Direction::FromDevice, iova, PROBE_BYTES)
    }

    /// Fills the device's buffer with the mark.
    fn load(&mut self) -> Result<(), Error> {
        self.memory.copy_from(0, &[MARK; PROBE_BYTES])?;
        self.driver.transfer(Direction::ToDevice, self.memory.iova(), PROBE_BYTES)
    }

    /// What is in the device's buffer.
    fn unload(&mut self) -> Result<[u8; PROBE_BYTES], Error> {
        let mut bytes = [0; PROBE_BYTES];
        self.memory.copy_from(0, &bytes)?;
        self.driver.transfer(Direction::FromDevice, self.memory.iova(), PROBE_BYTES)?;
        self.memory.copy_to(0, &mut bytes)?;
        Ok(bytes)
    }
}
