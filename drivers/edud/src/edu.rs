//! The device.

use core::hint;
use core::sync::atomic::{Ordering, fence};

use dma_types::{Access, Iova};

use crate::bar::Bar;
use crate::error::Error;
use crate::registers::{
    Command, DEVICE_BUFFER, Identification, Register32, Register64, TRANSFER_END,
};

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From memory into the device's buffer.
    ToDevice,
    /// From the device's buffer into memory.
    FromDevice,
}

impl Direction {
    /// What the device must be allowed to do with the memory, and no more.
    pub const fn access(self) -> Access {
        match self {
            Self::ToDevice => Access::Read,
            Self::FromDevice => Access::Write,
        }
    }
}

/// An `edu` device behind its registers.
#[derive(Debug)]
pub struct Edu<B> {
    bar: B,
}

impl<B: Bar> Edu<B> {
    /// Takes the device behind these registers over, if it is one. It may still be busy with a transfer that
    /// its last driver started: [`wait`](Self::wait) for the end of it.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`], [`Error::NotEdu`], [`Error::NotAlive`].
    pub fn new(bar: B) -> Result<Self, Error> {
        let mut edu = Self { bar };
        let identification = edu.identification();
        match identification.into_bits() {
            u32::MAX => Err(Error::Gone),
            _ if identification.device() == Identification::EDU => {
                edu.check_liveness()?;
                Ok(edu)
            }
            other => Err(Error::NotEdu(other)),
        }
    }

    /// Who answers.
    pub fn identification(&self) -> Identification {
        Identification::from_bits(self.bar.read32(Register32::Identification.offset()))
    }

    /// Checks that the device reacts to what is written to it.
    ///
    /// # Errors
    ///
    /// [`Error::NotAlive`].
    pub fn check_liveness(&mut self) -> Result<(), Error> {
        let written = 0x600d_cafe;
        self.bar.write32(Register32::Liveness.offset(), written);
        let found = self.bar.read32(Register32::Liveness.offset());
        if found == !written { Ok(()) } else { Err(Error::NotAlive { written, found }) }
    }

    /// Starts a transfer between memory and the device's buffer.
    ///
    /// `iova` is the address in memory as the device sees it, `offset` the place in the device's buffer. No
    /// more can go wrong with a wrong `iova` than that the IOMMU blocks the transfer, or that it goes to
    /// another buffer of this device's: that is why this is a safe function.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] and [`Error::OutOfDevice`], with nothing started; [`Error::Gone`].
    pub fn start_transfer(
        &mut self,
        direction: Direction,
        iova: Iova,
        offset: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        if bytes == 0 || offset.checked_add(bytes).is_none_or(|end| end > TRANSFER_END) {
            return Err(Error::OutOfDevice { offset, bytes });
        }
        if self.command()?.run() {
            return Err(Error::Busy);
        }
        let (memory, inside) = (iova.get(), DEVICE_BUFFER + offset);
        let (source, destination) = match direction {
            Direction::ToDevice => (memory, inside),
            Direction::FromDevice => (inside, memory),
        };
        let command =
            Command::new().with_run(true).with_to_memory(direction == Direction::FromDevice);
        self.write(Register64::Source, source);
        self.write(Register64::Destination, destination);
        self.write(Register64::Count, bytes);
        // What was written to the buffer before is there for the device to see when it is told to start.
        fence(Ordering::SeqCst);
        self.write(Register64::Command, command.into_bits());
        Ok(())
    }

    /// Whether a transfer is running.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`].
    pub fn is_busy(&self) -> Result<bool, Error> {
        Ok(self.command()?.run())
    }

    /// Waits until no transfer is running. When it returns, what the device wrote is there to be read.
    ///
    /// `expired` is asked between looks at the device whether to give up. It may sleep meanwhile.
    ///
    /// A blocked transfer ends like any other: the device is not told that it was blocked.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], [`Error::Gone`].
    pub fn wait(&self, mut expired: impl FnMut() -> bool) -> Result<(), Error> {
        while self.is_busy()? {
            if expired() {
                return Err(Error::TimedOut);
            }
            hint::spin_loop();
        }
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Starts a transfer and waits for its end: [`start_transfer`](Self::start_transfer) and
    /// [`wait`](Self::wait).
    ///
    /// # Errors
    ///
    /// As these two.
    pub fn transfer(
        &mut self,
        direction: Direction,
        iova: Iova,
        offset: u64,
        bytes: u64,
        expired: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        self.start_transfer(direction, iova, offset, bytes)?;
        self.wait(expired)
    }

    fn command(&self) -> Result<Command, Error> {
        match self.bar.read64(Register64::Command.offset()) {
            u64::MAX => Err(Error::Gone),
            bits => Ok(Command::from_bits(bits)),
        }
    }

    fn write(&self, register: Register64, value: u64) {
        self.bar.write64(register.offset(), value);
    }
}
