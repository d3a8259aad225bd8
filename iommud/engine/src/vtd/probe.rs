//! What a unit can do, and why one is refused.

use dma_types::PAGE_SIZE;
use thiserror::Error;

use super::registers::{
    Capability, ExtendedCapability, FIXED_REGISTERS_END, Readable, Version, Word,
};
use crate::platform::{RegisterWindow, Registers};

/// The major version from which a unit takes invalidations through its queue alone (6.5).
const QUEUE_ONLY_VERSION: u8 = 6;

/// The narrowest address that a unit may translate. It must reach all memory of the machine (11.4.2),
/// and no machine with VT-d has less than 32 bits of it.
const NARROWEST_ADDRESS: u8 = 32;

/// A unit is not used, for this reason; the others go on (rule R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnitRefusal {
    /// Nothing answers at the address that firmware gave.
    #[error("its {0} register reads all ones: no unit is at this address, or it has no power")]
    AllOnes(&'static str),
    /// Something answers, but no unit.
    #[error("its {0} register reads zero, which no unit does")]
    Zero(&'static str),
    /// SAGAW has no bit that means something.
    #[error("it walks no page table of 3, 4 or 5 levels")]
    NoTableDepth,
    /// MGAW is too small to be true.
    #[error("it translates addresses of {0} bits, fewer than memory has")]
    NarrowAddresses(u8),
    /// ND is the reserved encoding.
    #[error("it does not say how many domain ids it has")]
    DomainIds,
    /// There is no queue and the registers do nothing.
    #[error(
        "it has no invalidation queue, and its version {major} takes invalidations no other way"
    )]
    NoInvalidation {
        /// Its major version.
        major: u8,
    },
    /// ECAP.IRO is nonsense.
    #[error("its IOTLB registers, at {offset:#x}, lie outside its registers or on top of others")]
    InvalidationRegisters {
        /// Where they would start, in bytes from the start of the registers.
        offset: usize,
    },
    /// CAP.FRO or CAP.NFR is nonsense.
    #[error("its fault records, at {offset:#x}, lie outside its registers or on top of others")]
    FaultRegisters {
        /// Where they would start, in bytes from the start of the registers.
        offset: usize,
    },
}

/// What a unit says of itself, found to make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitCapabilities {
    /// The version of the architecture.
    pub version: Version,
    /// What it can do.
    pub capability: Capability,
    /// What it can do besides.
    pub extended: ExtendedCapability,
}

impl UnitCapabilities {
    /// Asks the unit whose registers start this window, which must hold at least the first 4 KiB.
    ///
    /// # Errors
    ///
    /// The first [`UnitRefusal`] that applies. The places of the registers that move are judged by
    /// [`RegisterFile::new`](super::registers::RegisterFile::new), which knows the size of the window.
    pub fn read(
        platform: &mut impl Registers,
        window: RegisterWindow,
    ) -> Result<Self, UnitRefusal> {
        Self::judge(
            sane(platform, window, "version")?,
            sane(platform, window, "capability")?,
            sane(platform, window, "extended capability")?,
        )
    }

    /// Whether a unit with these registers is one that the engine can use.
    fn judge(
        version: Version,
        capability: Capability,
        extended: ExtendedCapability,
    ) -> Result<Self, UnitRefusal> {
        if capability.widths().next().is_none() {
            return Err(UnitRefusal::NoTableDepth);
        }
        if capability.address_bits() < NARROWEST_ADDRESS {
            return Err(UnitRefusal::NarrowAddresses(capability.address_bits()));
        }
        if capability.domain_id_bits().is_none() {
            return Err(UnitRefusal::DomainIds);
        }
        if !extended.queued_invalidation() && version.major() >= QUEUE_ONLY_VERSION {
            return Err(UnitRefusal::NoInvalidation { major: version.major() });
        }
        Ok(Self { version, capability, extended })
    }

    /// How large a window holds every register that the engine uses, in whole pages. Firmware of before
    /// revision 4 does not say; 4 KiB is usual, and less than 20 KiB always.
    pub fn window_bytes(&self) -> usize {
        FIXED_REGISTERS_END
            .max(self.extended.iotlb_registers().end)
            .max(self.capability.fault_records().end)
            .next_multiple_of(PAGE_SIZE as usize)
    }
}

/// Reads a register that is never all ones and never zero.
fn sane<R: Readable>(
    platform: &mut impl Registers,
    window: RegisterWindow,
    name: &'static str,
) -> Result<R, UnitRefusal> {
    let word = R::Word::read(platform, window, R::OFFSET);
    if word == R::Word::ALL_ONES {
        Err(UnitRefusal::AllOnes(name))
    } else if word == R::Word::ZERO {
        Err(UnitRefusal::Zero(name))
    } else {
        Ok(R::from_word(word))
    }
}
