//! DRHD: a remapping unit, and whose requests it translates.

use alloc::vec::Vec;

use bitfield_struct::bitfield;
use dma_types::{PAGE_SIZE, PhysAddr};

use super::raw::RawDrhd;
use super::scope::DeviceScope;
use crate::acpi::{UnitFault, registers};

/// A DMA Remapping Hardware Unit Definition (8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drhd {
    /// Where the structure starts, in bytes from the start of the table.
    pub offset: usize,
    /// The PCI segment of its devices.
    pub segment: u16,
    /// INCLUDE_PCI_ALL: it translates for every device of its segment that no other unit names.
    pub include_pci_all: bool,
    /// Where its registers start.
    pub registers: PhysAddr,
    /// How many bytes of registers firmware says there are: 4096 times a power of two.
    ///
    /// Firmware of before revision 4.0 of the specification always says 4096, and the unit's own registers
    /// may tell of more.
    pub register_bytes: u64,
    /// The devices it names. Beside INCLUDE_PCI_ALL they are what that flag does not reach: I/O APICs,
    /// HPETs and what ACPI enumerates.
    pub scopes: Vec<DeviceScope>,
}

/// Flags, byte 4 (8.3).
#[bitfield(u8)]
struct Flags {
    include_pci_all: bool,
    #[bits(7)]
    __: u8,
}

/// Size, byte 5 (8.3).
#[bitfield(u8)]
struct Size {
    /// N, where there are 2 to the N pages of registers.
    #[bits(4)]
    page_order: u8,
    #[bits(4)]
    __: u8,
}

impl Drhd {
    pub(super) fn new(offset: usize, raw: &RawDrhd, scopes: Vec<DeviceScope>) -> Self {
        Self {
            offset,
            segment: raw.segment.get(),
            include_pci_all: Flags::from_bits(raw.flags).include_pci_all(),
            registers: PhysAddr::new(raw.register_base.get()),
            register_bytes: PAGE_SIZE << Size::from_bits(raw.size).page_order(),
            scopes,
        }
    }

    /// Whether there can be a unit at this address.
    pub(super) fn judge(&self) -> Result<(), UnitFault> {
        registers::judge(self.registers, self.register_bytes, PAGE_SIZE)
    }
}
