//! QEMU's `edu` device, as far as cases need it: its DMA, with a deadline, and its interrupt by message.
//!
//! Source: QEMU, `docs/specs/edu.rst` and `hw/misc/edu.c`.

use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use bitfield_struct::bitfield;
use dma_types::{PciAddress, PhysAddr, SourceId};
use iommu_engine::platform::{Platform, RegisterWindow};
use thiserror::Error;

use crate::cpu::apic;
use crate::platform::clock::spin;
use crate::platform::config::{capability, find, requester};

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
    /// The capability of interrupts by message (PCI 3.0, section 6.8.1), and in it, as this device has it:
    pub(super) const MESSAGES: u8 = 0x05;
    pub(super) const MESSAGE_ADDRESS: u16 = 4;
    pub(super) const MESSAGE_ADDRESS_HIGH: u16 = 8;
    pub(super) const MESSAGE_DATA: u16 = 12;
    /// In its first dword: messages are sent.
    pub(super) const MESSAGES_ENABLED: u32 = 1 << 16;
}

/// Offsets in BAR 0.
mod register {
    pub(super) const IDENTIFICATION: usize = 0x00;
    pub(super) const RAISE: usize = 0x60;
    pub(super) const ACKNOWLEDGE: usize = 0x64;
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
    /// It has no interrupts by message.
    #[error("edu has no interrupts by message")]
    Messages,
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
    /// The machine's first one, wherever it is.
    pub fn find(platform: &mut impl Platform) -> Result<Self, EduError> {
        let function = *find(platform, VENDOR, DEVICE).first().ok_or(EduError::Missing)?;
        Self::at(platform, function)
    }

    /// The machine's second one.
    pub fn find_second(platform: &mut impl Platform) -> Result<Self, EduError> {
        let function = *find(platform, VENDOR, DEVICE).get(1).ok_or(EduError::Missing)?;
        Self::at(platform, function)
    }

    fn at(platform: &mut impl Platform, function: PciAddress) -> Result<Self, EduError> {
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

    /// Lets the device interrupt this processor, with a message for this vector.
    pub fn interrupt(&self, platform: &mut impl Platform, vector: u8) -> Result<(), EduError> {
        let place = capability(platform, self.function, config::MESSAGES);
        let place = place.ok_or(EduError::Messages)?;
        let head = platform.config_read(self.function, place);
        // To the APIC number 0, with fixed delivery: all else is zero.
        for (at, value) in [
            (config::MESSAGE_ADDRESS, apic::BASE.get() as u32),
            (config::MESSAGE_ADDRESS_HIGH, 0),
            (config::MESSAGE_DATA, vector.into()),
            (0, head | config::MESSAGES_ENABLED),
        ] {
            platform.config_write(self.function, place + at, value);
        }
        platform.write32(self.window, register::RAISE, 1);
        platform.write32(self.window, register::ACKNOWLEDGE, 1);
        platform.config_write(self.function, place, head);
        Ok(())
    }

    /// Where in BAR 0 the register is that the device's DMA reads its source from.
    pub const fn source_register(&self) -> usize {
        register::SOURCE
    }

    /// What that register holds.
    pub fn source(&self, platform: &mut impl Platform) -> u64 {
        platform.read64(self.window, register::SOURCE)
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
