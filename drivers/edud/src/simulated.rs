//! The registers of a device that iommud simulates.

use alloc::sync::Arc;

use dma_types::PciAddress;
use libdma::Handle;
use libdma::protocol::call::Opcode;
use libdma::protocol::sim::{self, Access, CONFIG_SPACE};
use libdma::transport::Transport;
use zerocopy::little_endian::{U32, U64};

use crate::bar::Bar;
use crate::pci::{COMMAND, Command, IDENTITY};
use crate::registers::{BAR, is_edu};

/// The registers of a simulated `edu`: each access is a call to iommud.
///
/// A daemon that is gone is a device that is gone (see [`Bar`]).
#[derive(Debug)]
pub struct SimulatedBar {
    function: Handle,
}

impl SimulatedBar {
    /// Opens the simulated function and lets it answer and do DMA. `None` if it is no `edu`.
    ///
    /// # Errors
    ///
    /// [`libdma::Error::NoSuchPath`] if iommud does not simulate such a function.
    pub fn open(
        transport: Arc<dyn Transport>,
        address: PciAddress,
    ) -> Result<Option<Self>, libdma::Error> {
        let bar = Self { function: Handle::open(transport, &sim::path(address))? };
        let identity = bar.config_read(IDENTITY)?;
        if !is_edu(identity) {
            return Ok(None);
        }
        let command = Command::from_bits_retain(bar.config_read(COMMAND)? as u16) | Command::DRIVEN;
        // Zeroes for the status register above it: its bits are cleared by writing ones.
        bar.config_write(COMMAND, command.bits().into())?;
        Ok(Some(bar))
    }

    fn config_read(&self, offset: u16) -> Result<u32, libdma::Error> {
        let answer = self.access(Opcode::SimRead, CONFIG_SPACE, 4, offset.into(), 0)?;
        Ok(answer as u32)
    }

    fn config_write(&self, offset: u16, value: u32) -> Result<(), libdma::Error> {
        self.access(Opcode::SimWrite, CONFIG_SPACE, 4, offset.into(), value.into()).map(drop)
    }

    fn access(
        &self,
        opcode: Opcode,
        space: u32,
        width: u32,
        offset: u64,
        value: u64,
    ) -> Result<u64, libdma::Error> {
        let request = Access {
            space: U32::new(space),
            width: U32::new(width),
            offset: U64::new(offset),
            value: U64::new(value),
        };
        let answer: Access = self.function.call(opcode, &request)?;
        Ok(answer.value.get())
    }

    fn read(&self, width: u32, offset: usize) -> u64 {
        self.access(Opcode::SimRead, BAR, width, offset as u64, 0).unwrap_or(u64::MAX)
    }

    fn write(&self, width: u32, offset: usize, value: u64) {
        // Lost, if iommud is gone: the next read tells.
        let _ = self.access(Opcode::SimWrite, BAR, width, offset as u64, value);
    }
}

impl Bar for SimulatedBar {
    fn read32(&self, offset: usize) -> u32 {
        self.read(4, offset) as u32
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write(4, offset, value.into());
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read(8, offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write(8, offset, value);
    }
}
