//! Where a unit's registers are said to be, and whether that can be believed.

use dma_types::{PciAddress, PhysAddr};
use thiserror::Error;

/// Whether there can be a unit with `bytes` of registers at `base`, which must be a multiple of `alignment`, a
/// power of two.
pub(super) fn judge(base: PhysAddr, bytes: u64, alignment: u64) -> Result<(), UnitFault> {
    if base == PhysAddr::new(0) {
        return Err(UnitFault::NoBase);
    }
    if !base.is_aligned(alignment) {
        return Err(UnitFault::Unaligned { base, alignment });
    }
    if base.checked_add(bytes.saturating_sub(1)).is_none() {
        return Err(UnitFault::PastEnd { base, bytes });
    }
    Ok(())
}

/// A unit cannot be used, for this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnitFault {
    /// The register address is zero: firmware left it blank.
    #[error("its registers are said to be at address zero")]
    NoBase,
    /// There cannot be registers at this address.
    #[error("its registers are said to be at {base}, which is not a multiple of {alignment}")]
    Unaligned {
        /// Where they are said to start.
        base: PhysAddr,
        /// What it has to be a multiple of.
        alignment: u64,
    },
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
    /// IVRS: HATDis. The unit would confine nothing.
    #[error("it is said not to translate by host page tables")]
    NoHostTables,
    /// IVRS: another block of the same type describes a unit that is the same PCI function.
    #[error("its function, {0}, is another unit's already")]
    SameFunction(PciAddress),
    /// IVRS: a richer block describes a unit that is the same PCI function, with its registers elsewhere.
    #[error(
        "its function, {function}, is that of a unit whose richer block has registers at {base}"
    )]
    Contradicted {
        /// The function of both.
        function: PciAddress,
        /// Where the richer block has the registers.
        base: PhysAddr,
    },
}
