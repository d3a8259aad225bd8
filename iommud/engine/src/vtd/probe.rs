//! What a unit can do, and why one is refused.

use dma_types::PAGE_SIZE;
use thiserror::Error;

use super::registers::{Capability, ExtendedCapability, FIXED_REGISTERS_END, Version};
use crate::platform::{RegisterWindow, Registers};
use crate::registers::{Readable, Word};

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

#[cfg(test)]
mod tests {
    use super::super::registers::fake::{FakeRegisters, WINDOW};
    use super::*;
    use alloc::string::ToString;

    const VERSION: u32 = 0x10;
    const CAPABILITY: u64 = 0x00d2_008c_222f_0686;
    const EXTENDED: u64 = 0x00f0_0f5a;

    fn read(version: u32, capability: u64, extended: u64) -> Result<UnitCapabilities, UnitRefusal> {
        UnitCapabilities::read(&mut FakeRegisters::unit(version, capability, extended), WINDOW)
    }

    #[test]
    fn a_unit_that_makes_sense_is_taken() {
        let unit = read(VERSION, CAPABILITY, EXTENDED).unwrap();
        assert_eq!(unit.version.major(), 1);
        assert!(unit.capability.caching_mode() && unit.extended.queued_invalidation());
        assert_eq!(unit.window_bytes(), 0x1000);
    }

    #[test]
    fn the_window_holds_the_registers_that_move() {
        let unit = |capability, extended| read(VERSION, capability, extended).unwrap();
        assert_eq!(unit(CAPABILITY | 0xff << 40, EXTENDED).window_bytes(), 0x2000);
        assert_eq!(unit(CAPABILITY, EXTENDED | 0x3ff << 8).window_bytes(), 0x4000);
        let largest = unit(CAPABILITY | 0xff << 40 | 0x3ff << 24, EXTENDED);
        assert_eq!(largest.window_bytes(), 0x5000);
    }

    #[test]
    fn r5_a_unit_that_is_not_there_is_refused() {
        let ones = UnitRefusal::AllOnes;
        assert_eq!(read(u32::MAX, u64::MAX, u64::MAX), Err(ones("version")));
        assert_eq!(read(VERSION, u64::MAX, EXTENDED), Err(ones("capability")));
        assert_eq!(read(VERSION, CAPABILITY, u64::MAX), Err(ones("extended capability")));
        let zero = UnitRefusal::Zero;
        assert_eq!(read(0, 0, 0), Err(zero("version")));
        assert_eq!(read(VERSION, 0, EXTENDED), Err(zero("capability")));
        assert_eq!(read(VERSION, CAPABILITY, 0), Err(zero("extended capability")));
        // A window that ends before the registers reads all ones, too.
        let mut nothing = FakeRegisters::new(0);
        assert_eq!(UnitCapabilities::read(&mut nothing, WINDOW), Err(ones("version")));
    }

    #[test]
    fn r5_a_unit_that_the_engine_cannot_use_is_refused_with_the_reason() {
        let no_depth = CAPABILITY & !(0b01110 << 8) | 0b10001 << 8;
        assert_eq!(read(VERSION, no_depth, EXTENDED), Err(UnitRefusal::NoTableDepth));
        let narrow = CAPABILITY & !(0x3f << 16) | 30 << 16;
        assert_eq!(read(VERSION, narrow, EXTENDED), Err(UnitRefusal::NarrowAddresses(31)));
        assert!(read(VERSION, narrow + (1 << 16), EXTENDED).is_ok());
        assert_eq!(read(VERSION, CAPABILITY | 7, EXTENDED), Err(UnitRefusal::DomainIds));
    }

    #[test]
    fn a_new_unit_without_a_queue_is_refused_and_an_old_one_is_not() {
        let no_queue = EXTENDED & !0b10;
        let refusal = UnitRefusal::NoInvalidation { major: 6 };
        assert_eq!(read(0x60, CAPABILITY, no_queue), Err(refusal));
        assert!(read(0x50, CAPABILITY, no_queue).is_ok());
        assert!(read(0x60, CAPABILITY, EXTENDED).is_ok());
    }

    #[test]
    fn a_refusal_is_a_sentence_about_the_unit() {
        assert_eq!(
            UnitRefusal::AllOnes("version").to_string(),
            "its version register reads all ones: no unit is at this address, or it has no power"
        );
    }
}
