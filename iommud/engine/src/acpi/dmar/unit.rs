//! DRHD: a remapping unit, and whose requests it translates.

use alloc::vec::Vec;

use bitfield_struct::bitfield;
use dma_types::{PAGE_SIZE, PhysAddr};
use thiserror::Error;

use super::raw::RawDrhd;
use super::scope::DeviceScope;

/// A DMA Remapping Hardware Unit Definition (8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drhd {
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
    pub(super) fn new(raw: &RawDrhd, scopes: Vec<DeviceScope>) -> Self {
        Self {
            segment: raw.segment.get(),
            include_pci_all: Flags::from_bits(raw.flags).include_pci_all(),
            registers: PhysAddr::new(raw.register_base.get()),
            register_bytes: PAGE_SIZE << Size::from_bits(raw.size).page_order(),
            scopes,
        }
    }

    /// Whether there can be a unit at this address.
    pub(super) fn judge(&self) -> Result<(), UnitFault> {
        let base = self.registers;
        if base == PhysAddr::new(0) {
            return Err(UnitFault::NoBase);
        }
        if !base.is_aligned(PAGE_SIZE) {
            return Err(UnitFault::Unaligned(base));
        }
        if base.checked_add(self.register_bytes - 1).is_none() {
            return Err(UnitFault::PastEnd { base, bytes: self.register_bytes });
        }
        Ok(())
    }
}

/// A unit cannot be used, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnitFault {
    /// The register address is zero: firmware left it blank.
    #[error("its registers are said to be at address zero")]
    NoBase,
    /// The register address is no page.
    #[error("its registers are said to be at {0}, which is not a multiple of 4096")]
    Unaligned(PhysAddr),
    /// The registers run over the end of memory.
    #[error("its {bytes} bytes of registers at {base} run over the end of the address space")]
    PastEnd {
        /// Where they are said to start.
        base: PhysAddr,
        /// How many there are said to be.
        bytes: u64,
    },
    /// An earlier structure describes a unit at the same address. Its registers must not have two masters;
    /// Linux too keeps the first alone.
    #[error("its registers at {0} are another unit's already")]
    Twice(PhysAddr),
}
