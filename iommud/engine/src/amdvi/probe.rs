//! What a unit can do, and why one is refused.

use dma_types::PhysAddr;
use thiserror::Error;

use super::capability::{Capability, CapabilityHeader};
use super::registers::{Control, ExtendedFeatures, RegisterFile};
use crate::platform::Registers;

/// A unit is not used, for this reason; the others go on (rule R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnitRefusal {
    /// The PCI function that firmware names has no capability of an IOMMU where it says.
    #[error("its PCI function has no IOMMU's capability at {offset:#x}, where firmware says")]
    NoCapability {
        /// Where it should be, in bytes from the start of the configuration space.
        offset: u16,
    },
    /// The unit has its registers elsewhere than firmware says, and cannot be moved.
    #[error("its registers are at {base}, and not where firmware says")]
    Elsewhere {
        /// Where they are.
        base: PhysAddr,
    },
    /// Nothing answers at the address that firmware gave.
    #[error("its {0} register reads all ones: no unit is at this address, or it has no power")]
    AllOnes(&'static str),
    /// Something answers, but no unit.
    #[error("its {0} register reads zero, which no unit does")]
    Zero(&'static str),
    /// HATS has no size that means something.
    #[error("it walks no host page tables")]
    NoHostTables,
}

/// What a unit says of itself, found to make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitCapabilities {
    /// What it says in its capability.
    pub header: CapabilityHeader,
    /// What it can do, and firmware does not deny.
    pub features: ExtendedFeatures,
    /// How many levels its tables may have, 4 to 6.
    pub most_levels: u8,
    /// How many bits of address it translates, 32 to 64.
    pub address_bits: u8,
}

impl UnitCapabilities {
    /// Asks the unit with these registers. `image` is what firmware's table says that its extended feature
    /// register holds, if it says.
    ///
    /// # Errors
    ///
    /// The first [`UnitRefusal`] that applies.
    pub fn read(
        platform: &mut impl Registers,
        registers: &RegisterFile,
        capability: &Capability,
        image: Option<ExtendedFeatures>,
    ) -> Result<Self, UnitRefusal> {
        let control: Control = registers.read(platform);
        if control == Control::GONE {
            return Err(UnitRefusal::AllOnes("control"));
        }
        // A unit of before the register has no feature that matters here, and four levels are what all have.
        let features = if capability.header.extended_features() {
            let own: ExtendedFeatures = registers.read(platform);
            match own.into_bits() {
                u64::MAX => return Err(UnitRefusal::AllOnes("extended feature")),
                0 => return Err(UnitRefusal::Zero("extended feature")),
                _ => image.map_or(own, |image| own.and(image)),
            }
        } else {
            ExtendedFeatures::new()
        };
        let most_levels = features.host_tables().levels().ok_or(UnitRefusal::NoHostTables)?;
        Ok(Self {
            header: capability.header,
            features,
            most_levels,
            address_bits: address_bits(capability.miscellaneous.virtual_bits(), most_levels),
        })
    }
}

/// How many bits of address are translated: as many as the unit says, if that is one of the sizes there are,
/// and no more than its deepest table has.
fn address_bits(said: u8, most_levels: u8) -> u8 {
    let deepest = (12 + 9 * most_levels).min(64);
    match said {
        32 | 40 | 48 | 64 => said.min(deepest),
        _ => deepest,
    }
}

#[cfg(test)]
mod tests {
    use super::super::capability::tests::FakeConfig;
    use super::super::registers::fake::{FakeRegisters, WINDOW};
    use super::*;
    use alloc::string::ToString;
    use dma_types::PciAddress;

    const QEMU: u64 = 0x29d3;

    /// A unit whose capability is QEMU's but for these bits of its header, with this feature register.
    fn read(
        without: u32,
        features: u64,
        image: Option<u64>,
    ) -> Result<UnitCapabilities, UnitRefusal> {
        let mut config = FakeConfig::new(0xfed8_0000, true);
        config.words[0x40 / 4] &= !without;
        let function = PciAddress::new(0, 0, 1, 0).unwrap();
        let capability = Capability::read(&mut config, function, 0x40).unwrap();
        let mut platform = FakeRegisters::new();
        platform.set(0x30, features);
        let image = image.map(ExtendedFeatures::from_bits);
        UnitCapabilities::read(&mut platform, &RegisterFile::new(WINDOW), &capability, image)
    }

    #[test]
    fn a_unit_that_makes_sense_is_taken() {
        let unit = read(0, QEMU, None).unwrap();
        assert!(unit.header.caches_absent() && unit.features.invalidate_all());
        assert_eq!((unit.most_levels, unit.address_bits), (6, 48));
        assert_eq!(read(0, QEMU, Some(QEMU)).unwrap().most_levels, 6);
        assert_eq!(read(0, QEMU, Some(0x40)).unwrap().most_levels, 4);
    }

    #[test]
    fn a_unit_without_the_feature_register_has_what_all_have() {
        let unit = read(1 << 27, u64::MAX, Some(QEMU)).unwrap();
        assert!(!unit.features.invalidate_all());
        assert_eq!((unit.most_levels, unit.features.segments_order()), (4, 0));
    }

    #[test]
    fn r5_a_unit_that_is_not_there_or_walks_nothing_is_refused_with_the_reason() {
        assert_eq!(read(0, u64::MAX, None), Err(UnitRefusal::AllOnes("extended feature")));
        assert_eq!(read(0, 0, None), Err(UnitRefusal::Zero("extended feature")));
        assert_eq!(read(0, 0xc40, None), Err(UnitRefusal::NoHostTables));
        assert_eq!(read(0, QEMU, Some(0xc40)), Err(UnitRefusal::NoHostTables));
    }

    #[test]
    fn addresses_are_as_wide_as_the_unit_says_and_its_tables_are_deep() {
        assert_eq!([address_bits(48, 4), address_bits(64, 4), address_bits(40, 6)], [48, 48, 40]);
        assert_eq!([address_bits(64, 6), address_bits(64, 5), address_bits(32, 4)], [64, 57, 32]);
        // What is no size there is says nothing.
        assert_eq!([address_bits(0, 4), address_bits(127, 6)], [48, 64]);
    }

    #[test]
    fn a_refusal_is_a_sentence_about_the_unit() {
        assert_eq!(
            UnitRefusal::Elsewhere { base: PhysAddr::new(0xfed8_0000) }.to_string(),
            "its registers are at 0xfed80000, and not where firmware says"
        );
    }
}
