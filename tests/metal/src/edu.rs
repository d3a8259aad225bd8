//! QEMU's `edu` device, as far as cases need it: its DMA, and a deadline.
//!
//! Source: QEMU, `docs/specs/edu.rst` and `hw/misc/edu.c`.

use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use bitfield_struct::bitfield;
use dma_types::{PciAddress, PhysAddr, SourceId};
use iommu_engine::platform::{Platform, RegisterWindow};
use thiserror::Error;

use crate::platform::clock::spin;
use crate::platform::config::{find, requester};

const VENDOR: u16 = 0x1234;
const DEVICE: u16 = 0x11e8;

/// Where the device's own buffer lies among the addresses of its DMA engine.
const BUFFER: u64 = 0x40000;
/// The most bytes in one transfer: QEMU 7.2 takes one that ends with the buffer for an overrun, and stops.
pub const MOST: u64 = 4095;
/// How long a transfer may take. It takes 100 ms, of the guest's time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Offsets in configuration space.
mod config {
    pub(super) const COMMAND: u16 = 0x04;
    pub(super) const BAR0: u16 = 0x10;
}

/// Offsets in BAR 0.
mod register {
    pub(super) const IDENTIFICATION: usize = 0x00;
    pub(super) const SOURCE: usize = 0x80;
    pub(super) const DESTINATION: usize = 0x88;
    pub(super) const COUNT: usize = 0x90;
    pub(super) const COMMAND: usize = 0x98;
    /// The end of what is used here.
    pub(super) const END: usize = 0xa0;
}

/// PCI command and status, as one dword. The status in its upper half is cleared by ones: zeroes written
/// there leave it alone.
#[bitfield(u32)]
struct PciCommand {
    io: bool,
    memory: bool,
    bus_master: bool,
    #[bits(13)]
    rest: u16,
    status: u16,
}

/// The DMA engine's command register.
#[bitfield(u64)]
struct Command {
    /// Start, and, read back, running.
    run: bool,
    /// From the device to memory and not the other way.
    to_memory: bool,
    #[bits(62)]
    __: u64,
}

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device reads memory.
    ToDevice,
    /// The device writes memory.
    FromDevice,
}

/// The device does not do what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EduError {
    /// The machine has none.
    #[error("there is no edu device on this machine")]
    Missing,
    /// The firmware gave it no address below 4 GiB, or the registers there are not its own.
    #[error("edu's registers are not at {0}")]
    Registers(PhysAddr),
    /// The transfer is longer than the device can do.
    #[error("edu cannot transfer {0} bytes at once")]
    TooLong(u64),
    /// A transfer does not end.
    #[error("edu's transfer does not end")]
    TimedOut,
}

/// An `edu` device, its registers mapped and its bus mastering on.
#[derive(Clone, Copy, Debug)]
pub struct Edu {
    function: PciAddress,
    requester: SourceId,
    window: RegisterWindow,
}

impl Edu {
    /// The machine's one, wherever it is.
    pub fn find(platform: &mut impl Platform) -> Result<Self, EduError> {
        let function = *find(platform, VENDOR, DEVICE).first().ok_or(EduError::Missing)?;
        let bar = platform.config_read(function, config::BAR0);
        // A memory BAR of 32 bits has its kind in the low four.
        let base = PhysAddr::new(u64::from(bar & !0xf));
        let window =
            platform.map_registers(base, register::END).map_err(|_| EduError::Registers(base))?;
        let command = PciCommand::from_bits(platform.config_read(function, config::COMMAND));
        let command = command.with_memory(true).with_bus_master(true).with_status(0);
        platform.config_write(function, config::COMMAND, command.into_bits());
        let [kind, ..] = platform.read32(window, register::IDENTIFICATION).to_le_bytes();
        if kind != 0xed {
            return Err(EduError::Registers(base));
        }
        Ok(Self { function, requester: requester(platform, function), window })
    }

    /// Where it is.
    pub fn function(&self) -> PciAddress {
        self.function
    }

    /// Who an IOMMU sees when the device asks: the device, or a bridge above it.
    pub fn requester(&self) -> SourceId {
        self.requester
    }

    /// Moves `bytes` bytes between the device's buffer and `address`, as the device sees memory. Returns
    /// when the transfer has ended, which says nothing of whether it was blocked.
    pub fn transfer(
        &self,
        platform: &mut impl Platform,
        direction: Direction,
        address: u64,
        bytes: u64,
    ) -> Result<(), EduError> {
        if !(1..=MOST).contains(&bytes) {
            return Err(EduError::TooLong(bytes));
        }
        let (source, destination) = match direction {
            Direction::ToDevice => (address, BUFFER),
            Direction::FromDevice => (BUFFER, address),
        };
        let to_memory = direction == Direction::FromDevice;
        let command = Command::new().with_run(true).with_to_memory(to_memory);
        platform.write64(self.window, register::SOURCE, source);
        platform.write64(self.window, register::DESTINATION, destination);
        platform.write64(self.window, register::COUNT, bytes);
        fence(Ordering::SeqCst);
        platform.write64(self.window, register::COMMAND, command.into_bits());
        let start = platform.now();
        while Command::from_bits(platform.read64(self.window, register::COMMAND)).run() {
            if platform.now().since(start) > PATIENCE {
                return Err(EduError::TimedOut);
            }
            spin();
        }
        fence(Ordering::SeqCst);
        Ok(())
    }
}
