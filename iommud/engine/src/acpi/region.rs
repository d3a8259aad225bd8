//! Memory that firmware reserves for devices, and whether it can be believed.

use dma_types::{PAGE_SIZE, PhysAddr};
use thiserror::Error;

/// The largest region that is believed, in bytes. Integrated GPUs have the largest there are: 1032 MiB on the
/// real machines whose tables were looked at. What is beyond 4 GiB is no reservation any more, it is a hole
/// in the confinement.
const LARGEST_REGION: u64 = 1 << 32;

/// How many bytes there are from `base` to `limit`, both in it; zero if that is backwards.
pub(super) fn bytes(base: PhysAddr, limit: PhysAddr) -> u64 {
    let distance = limit.get().checked_sub(base.get());
    distance.map_or(0, |distance| distance.saturating_add(1))
}

/// Whether the bytes from `base` to `limit`, both in it, are a range of whole pages, of credible size, in a
/// machine whose addresses have `width` bits.
pub(super) fn judge(base: PhysAddr, limit: PhysAddr, width: u8) -> Result<(), RegionFault> {
    if limit < base {
        return Err(RegionFault::Backwards { base, limit });
    }
    if !base.is_aligned(PAGE_SIZE) || limit.page_offset() != PAGE_SIZE - 1 {
        return Err(RegionFault::NotPages { base, limit });
    }
    if limit.get().checked_shr(width.into()).is_some_and(|above| above != 0) {
        return Err(RegionFault::OutOfReach { limit, width });
    }
    let bytes = bytes(base, limit);
    if bytes > LARGEST_REGION {
        return Err(RegionFault::TooLarge { bytes });
    }
    Ok(())
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
