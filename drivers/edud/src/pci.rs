//! The little of PCI that a driver sets itself: PCI Local Bus Specification 3.0, 6.2.

use bitflags::bitflags;

/// Where vendor (low half) and device (high half) are in configuration space.
pub const IDENTITY: u16 = 0x00;
/// Where the command register is in configuration space: 16 bits, with the status register above it.
pub const COMMAND: u16 = 0x04;

bitflags! {
    /// The command register (6.2.2), as far as a driver needs it. All else in it is kept.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// The device answers at its memory BARs, bit 1.
        const MEMORY_SPACE = 1 << 1;
        /// The device may make requests of its own: DMA and MSI, bit 2.
        const BUS_MASTER = 1 << 2;
        const _ = !0;
    }
}

impl Command {
    /// What a driver that uses registers and DMA turns on.
    pub const DRIVEN: Self = Self::MEMORY_SPACE.union(Self::BUS_MASTER);
}
