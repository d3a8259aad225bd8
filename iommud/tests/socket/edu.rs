//! The simulated device's registers.

use std::sync::Arc;

use libdma::protocol::call::Opcode;
use libdma::protocol::sim::{self, Access, CONFIG_SPACE};
use libdma::transport::Transport;
use libdma::{Error, Handle, Iova};
use zerocopy::little_endian::{U32, U64};

use crate::rig::{edu, eventually};

/// Offsets in BAR 0 (QEMU, `docs/specs/edu.rst`).
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
/// The command register in configuration space, and two of its bits (PCI 3.0, 6.2.2).
const PCI_COMMAND: u64 = 4;
const MEMORY_SPACE: u64 = 1 << 1;
const BUS_MASTER: u64 = 1 << 2;
/// Where the device's own memory is.
const BUFFER: u64 = 0x4_0000;

/// The device.
pub(crate) struct Edu(Handle);

impl Edu {
    /// Opens the registers and lets the device do DMA.
    pub(crate) fn open(transport: Arc<dyn Transport>) -> Result<Self, Error> {
        let device = Self(Handle::open(transport, &sim::path(edu()))?);
        device.switch_on();
        Ok(device)
    }

    /// Lets the device answer and do DMA.
    pub(crate) fn switch_on(&self) {
        let command = MEMORY_SPACE | BUS_MASTER;
        self.access(Opcode::SimWrite, (CONFIG_SPACE, 4), PCI_COMMAND, command).unwrap();
    }

    /// Whether the device may do DMA.
    pub(crate) fn is_bus_master(&self) -> bool {
        let command = self.access(Opcode::SimRead, (CONFIG_SPACE, 4), PCI_COMMAND, 0).unwrap();
        command & BUS_MASTER != 0
    }

    fn access(
        &self,
        opcode: Opcode,
        (space, width): (u32, u32),
        offset: u64,
        value: u64,
    ) -> Result<u64, Error> {
        let access = Access {
            space: U32::new(space),
            width: U32::new(width),
            offset: U64::new(offset),
            value: U64::new(value),
        };
        let answer: Access = self.0.call(opcode, &access)?;
        Ok(answer.value.get())
    }

    /// Has the device read from memory.
    pub(crate) fn read(&self, iova: Iova, bytes: u64) {
        self.transfer(iova.get(), BUFFER, bytes, 1);
    }

    /// Has the device write to memory what it has read.
    pub(crate) fn write(&self, iova: Iova, bytes: u64) {
        self.transfer(BUFFER, iova.get(), bytes, 3);
    }

    fn transfer(&self, source: u64, destination: u64, bytes: u64, command: u64) {
        let registers =
            [(SOURCE, source), (DESTINATION, destination), (COUNT, bytes), (COMMAND, command)];
        for (register, value) in registers {
            self.access(Opcode::SimWrite, (0, 8), register, value).unwrap();
        }
        eventually(|| {
            let command = self.access(Opcode::SimRead, (0, 8), COMMAND, 0).unwrap();
            (command & 1 == 0).then_some(())
        });
    }
}
