//! RMRR: memory that a device must reach from the start.

use alloc::vec::Vec;

use dma_types::{PAGE_SIZE, PhysAddr};
use thiserror::Error;

use super::raw::RawRmrr;
use super::scope::DeviceScope;

/// The largest region that is believed, in bytes. Integrated GPUs have the largest there are: 1032 MiB on the
/// real machines whose tables were looked at. What is beyond 4 GiB is no reservation any more, it is a hole
/// in the confinement.
const LARGEST_REGION: u64 = 1 << 32;

/// A Reserved Memory Region Reporting structure (8.4): mapped at its own address, for the devices it names
/// alone, before translation is turned on (rule R1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rmrr {
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
    pub(super) fn new(raw: &RawRmrr, scopes: Vec<DeviceScope>) -> Self {
        Self {
            segment: raw.segment.get(),
            base: PhysAddr::new(raw.base.get()),
            limit: PhysAddr::new(raw.limit.get()),
            scopes,
        }
    }

    /// How long the region is in bytes, a multiple of 4096. Zero for one that is backwards.
    pub fn bytes(&self) -> u64 {
        let distance = self.limit.get().checked_sub(self.base.get());
        distance.map_or(0, |distance| distance.saturating_add(1))
    }

    /// Whether this is a range of whole pages, of credible size, in a machine whose addresses have `width`
    /// bits.
    pub(super) fn judge(&self, width: u8) -> Result<(), RegionFault> {
        let Self { base, limit, .. } = *self;
        if limit < base {
            return Err(RegionFault::Backwards { base, limit });
        }
        if !base.is_aligned(PAGE_SIZE) || limit.page_offset() != PAGE_SIZE - 1 {
            return Err(RegionFault::NotPages { base, limit });
        }
        if limit.get().checked_shr(width.into()).is_some_and(|above| above != 0) {
            return Err(RegionFault::OutOfReach { limit, width });
        }
        if self.bytes() > LARGEST_REGION {
            return Err(RegionFault::TooLarge { bytes: self.bytes() });
        }
        Ok(())
    }
}

/// A reserved region is not used, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RegionFault {
    /// The end comes first.
    #[error("it ends at {limit}, before its start at {base}")]
    Backwards {
        /// Where it is said to start.
        base: PhysAddr,
        /// Where its last byte is said to be.
        limit: PhysAddr,
    },
    /// It is no number of whole pages.
    #[error("it is from {base} to {limit}, which is not a range of whole pages")]
    NotPages {
        /// Where it is said to start.
        base: PhysAddr,
        /// Where its last byte is said to be.
        limit: PhysAddr,
    },
    /// The machine has no such address.
    #[error("it ends at {limit}, and addresses here have {width} bits")]
    OutOfReach {
        /// Where its last byte is said to be.
        limit: PhysAddr,
        /// The bits of an address, by the same table.
        width: u8,
    },
    /// No device needs so much.
    #[error("it has {bytes} bytes, more than any reservation needs")]
    TooLarge {
        /// How long it is.
        bytes: u64,
    },
}
