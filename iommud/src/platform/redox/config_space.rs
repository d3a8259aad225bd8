//! PCI configuration space, where it is mapped to memory.
//!
//! pcid has a call for any function's configuration space (`/scheme/pci/access`), but it writes one dword
//! past the one meant (base 9e128703, `drivers/pcid/src/scheme.rs`: the byte loop has advanced its index
//! when the write takes it). A driver's bus mastering would not be cleared and nobody would notice (rule R4),
//! so configuration space is reached as pcid itself reaches it. An access is one dword either way, so that the
//! two do not tear each other's.
//!
//! A machine that has it only behind I/O ports has no configuration space here: its functions look absent.
//! Every machine with an IOMMU has PCI Express, and with it the MCFG table.

use std::collections::BTreeMap;

use dma_types::{PciAddress, PhysAddr};
use iommu_engine::platform::{PlatformError, RegisterWindow, Registers};

use super::acpi::read_table;
use super::mcfg::{BUS_BYTES, BusRange, bus_ranges, place};
use super::registers::RegisterWindows;

/// Configuration space, a window for each bus that was looked at.
pub struct MappedConfigSpace {
    ranges: Vec<BusRange>,
    /// By where the bus starts. `None`: it cannot be mapped.
    buses: BTreeMap<PhysAddr, Option<RegisterWindow>>,
}

impl MappedConfigSpace {
    /// Learns from the MCFG table where it is.
    pub fn find() -> Result<Self, PlatformError> {
        let table = read_table(*b"MCFG")?.unwrap_or_default();
        Ok(Self { ranges: bus_ranges(&table), buses: BTreeMap::new() })
    }

    /// The window that a function's bus is in, and where in it the dword at `offset` of its configuration
    /// space is.
    pub fn dword(
        &mut self,
        registers: &mut RegisterWindows,
        function: PciAddress,
        offset: u16,
    ) -> Option<(RegisterWindow, usize)> {
        if !offset.is_multiple_of(4) || offset >= 0x1000 {
            return None;
        }
        let (bus, within) = place(&self.ranges, function)?;
        let window =
            *self.buses.entry(bus).or_insert_with(|| registers.map_registers(bus, BUS_BYTES).ok());
        Some((window?, within + usize::from(offset)))
    }
}
