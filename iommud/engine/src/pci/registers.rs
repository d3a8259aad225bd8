//! The registers that every function has.
//!
//! They are those of the PCI Local Bus Specification 3.0, chapter 6, and of the PCI-to-PCI Bridge
//! Architecture Specification 1.2, chapter 3.

use bitfield_struct::bitfield;
use dma_types::PciAddress;

use crate::platform::ConfigSpace;

/// A dword of configuration space.
pub(super) trait ConfigRegister: Copy {
    /// Bytes from the start of the structure that it is in: the function's configuration space, or a
    /// capability.
    const OFFSET: u16;
    fn from_dword(dword: u32) -> Self;
}

/// Reads a register that every function has.
pub(super) fn read<R: ConfigRegister>(config: &mut impl ConfigSpace, function: PciAddress) -> R {
    read_in(config, function, 0)
}

/// Reads a register of the capability that starts at `structure`, a multiple of 4.
pub(super) fn read_in<R: ConfigRegister>(
    config: &mut impl ConfigSpace,
    function: PciAddress,
    structure: u16,
) -> R {
    R::from_dword(config.config_read(function, structure.saturating_add(R::OFFSET)))
}

macro_rules! config_register {
    ($name:ident, $offset:literal) => {
        impl $crate::pci::registers::ConfigRegister for $name {
            const OFFSET: u16 = $offset;

            fn from_dword(dword: u32) -> Self {
                Self::from_bits(dword)
            }
        }
    };
}
pub(super) use config_register;

/// Vendor and device (6.2.1). All ones where there is no function.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Identity {
    pub vendor: u16,
    pub device: u16,
}
config_register!(Identity, 0x00);

/// Command and status (6.2.2, 6.2.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct CommandStatus {
    __: bool,
    /// Memory Space, bit 1: whether its memory BARs are switched on.
    pub memory_space: bool,
    /// Bus Master, bit 2: whether the function may start transactions, DMA among them.
    pub bus_master: bool,
    #[bits(13)]
    __: u16,
    /// The status register: bits of it are cleared by writing 1.
    pub status: u16,
}
config_register!(CommandStatus, 0x04);

/// The status register (6.2.3).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(super) struct Status {
    #[bits(4)]
    __: u8,
    /// Capabilities List, bit 4: whether there is one.
    pub capabilities: bool,
    #[bits(11)]
    __: u16,
}

/// Revision and class (6.2.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Class {
    pub revision: u8,
    pub interface: u8,
    pub subclass: u8,
    pub base: u8,
}
config_register!(Class, 0x08);

/// Cache line size, latency timer, header type and self test (6.2.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Header {
    __: u16,
    /// The header's layout, bits 22:16: 1 for a PCI-to-PCI bridge.
    #[bits(7)]
    pub layout: u8,
    /// Whether the device has more functions than this, bit 23.
    pub multi_function: bool,
    __: u8,
}
config_register!(Header, 0x0c);

/// The bus numbers of a bridge (PCI-to-PCI bridge 3.2.5.3 to 3.2.5.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct BusNumbers {
    pub primary: u8,
    pub secondary: u8,
    pub subordinate: u8,
    __: u8,
}
config_register!(BusNumbers, 0x18);

/// Where the list of capabilities starts (6.7), in functions and in PCI-to-PCI bridges.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct CapabilitiesPointer {
    /// The first capability. Its two lowest bits mean nothing.
    pub first: u8,
    #[bits(24)]
    __: u32,
}
config_register!(CapabilitiesPointer, 0x34);
