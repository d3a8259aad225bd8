//! RMRR: memory that a device must reach from the start.

use alloc::vec::Vec;

use dma_types::PhysAddr;

use super::raw::RawRmrr;
use super::scope::DeviceScope;
use crate::acpi::{RegionFault, region};

/// A Reserved Memory Region Reporting structure (8.4): mapped at its own address, for the devices it names
/// alone, before translation is turned on (rule R1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rmrr {
    /// Where the structure starts, in bytes from the start of the table.
    pub offset: usize,
    /// The PCI segment of its devices.
    pub segment: u16,
    /// The first byte of the region, at the start of a page.
    pub base: PhysAddr,
    /// The last byte of the region, at the end of a page.
    pub limit: PhysAddr,
    /// The devices it is for. A region that names none is for nobody.
    pub scopes: Vec<DeviceScope>,
}

impl Rmrr {
    pub(super) fn new(offset: usize, raw: &RawRmrr, scopes: Vec<DeviceScope>) -> Self {
        Self {
            offset,
            segment: raw.segment.get(),
            base: PhysAddr::new(raw.base.get()),
            limit: PhysAddr::new(raw.limit.get()),
            scopes,
        }
    }

    /// How long the region is in bytes, a multiple of 4096. Zero for one that is backwards.
    pub fn bytes(&self) -> u64 {
        region::bytes(self.base, self.limit)
    }

    /// Whether this is a range of whole pages, of credible size, in a machine whose addresses have `width`
    /// bits.
    pub(super) fn judge(&self, width: u8) -> Result<(), RegionFault> {
        region::judge(self.base, self.limit, width)
    }
}
