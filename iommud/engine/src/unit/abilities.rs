//! What tables a unit can walk, and which several units can.

use core::fmt;

use dma_types::Access;
use thiserror::Error;

/// The depths of table that a unit walks, as a set of numbers of levels, 1 to 6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depths(u8);

impl Depths {
    /// These depths; numbers of levels that no table has are left out.
    pub fn new(levels: impl IntoIterator<Item = u8>) -> Self {
        let known = levels.into_iter().filter(|levels| (1..=6).contains(levels));
        Self(known.fold(0, |set, levels| set | 1 << levels))
    }

    /// Whether tables of this depth are walked.
    pub const fn contains(self, levels: u8) -> bool {
        levels < 8 && self.0 & 1 << levels != 0
    }

    /// The depths, least first.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = u8> {
        (1..=6).filter(move |levels| self.contains(*levels))
    }

    /// What is in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for Depths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, levels) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{levels}")?;
        }
        Ok(())
    }
}

/// Whose tables a unit walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walks {
    /// VT-d second-stage tables.
    SecondStage,
    /// AMD-Vi version 1 host tables.
    AmdV1,
    /// Nobody's: there is no IOMMU, and devices see memory at its physical addresses.
    Nothing,
}

/// What tables a unit can walk, or all of several units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// The layout of their entries.
    pub walks: Walks,
    /// How deep they may be.
    pub depths: Depths,
    /// The sizes of pages: bit *n* for pages of two to the *n* bytes.
    pub page_sizes: u64,
    /// How many bits of address reach a table.
    pub address_bits: u8,
    /// Whether tables need not be flushed to memory.
    pub coherent: bool,
    /// Whether what a device may write it must be allowed to read, too (rule R6).
    pub write_needs_read: bool,
}

/// Two units, or a unit and a domain, do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Mismatch {
    /// They walk different layouts.
    #[error("one walks VT-d's tables and the other AMD's")]
    Layout,
    /// No depth suits both.
    #[error("it does not walk tables as deep as these, or not so shallow ones")]
    Depth,
    /// The domain has pages that the unit does not know.
    #[error("it does not know pages as large as this domain's")]
    PageSizes,
    /// The domain has addresses that the unit does not translate.
    #[error("it translates fewer bits of address than this domain has")]
    AddressBits,
    /// The domain's tables are not flushed, as the unit needs.
    #[error("it does not snoop, and this domain's tables are made for units that do")]
    Coherency,
    /// The domain has mappings for writing alone.
    #[error("it cannot map for writing alone, and this domain may")]
    WriteNeedsRead,
}

impl Abilities {
    /// What a device may do for whom so much is to be permitted (rule R6).
    #[inline]
    pub const fn permitted(&self, access: Access) -> Access {
        match access {
            Access::Write if self.write_needs_read => Access::ReadWrite,
            access => access,
        }
    }

    /// What there is to be asked where there is no IOMMU: every physical address there can be, and no say in what a
    /// device does with it.
    pub const NONE: Self = Self {
        walks: Walks::Nothing,
        depths: Depths(0),
        page_sizes: 0,
        address_bits: 52,
        coherent: true,
        write_needs_read: true,
    };

    /// What both can.
    ///
    /// # Errors
    ///
    /// [`Mismatch::Layout`] or [`Mismatch::Depth`], if there is no table that both could walk.
    pub fn and(&self, other: &Self) -> Result<Self, Mismatch> {
        if self.walks != other.walks {
            return Err(Mismatch::Layout);
        }
        let depths = self.depths.and(other.depths);
        if depths.iter().next().is_none() {
            return Err(Mismatch::Depth);
        }
        Ok(Self {
            walks: self.walks,
            depths,
            page_sizes: self.page_sizes & other.page_sizes,
            address_bits: self.address_bits.min(other.address_bits),
            coherent: self.coherent && other.coherent,
            write_needs_read: self.write_needs_read || other.write_needs_read,
        })
    }

    /// Whether a unit with these abilities can walk tables made for `domain`.
    ///
    /// # Errors
    ///
    /// The first [`Mismatch`] that is found.
    pub fn suit(&self, domain: &Self) -> Result<(), Mismatch> {
        let doubts = [
            (self.walks == domain.walks, Mismatch::Layout),
            (self.depths.and(domain.depths) == domain.depths, Mismatch::Depth),
            (self.page_sizes & domain.page_sizes == domain.page_sizes, Mismatch::PageSizes),
            (self.address_bits >= domain.address_bits, Mismatch::AddressBits),
            (self.coherent || !domain.coherent, Mismatch::Coherency),
            (!self.write_needs_read || domain.write_needs_read, Mismatch::WriteNeedsRead),
        ];
        match doubts.iter().find(|(holds, _)| !holds) {
            Some((_, mismatch)) => Err(*mismatch),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    const WIDE: Abilities = Abilities {
        walks: Walks::SecondStage,
        depths: Depths(0b11000),
        page_sizes: 0x4020_1000,
        address_bits: 48,
        coherent: true,
        write_needs_read: false,
    };

    const NARROW: Abilities = Abilities {
        depths: Depths(0b1000),
        page_sizes: 0x1000,
        address_bits: 39,
        coherent: false,
        write_needs_read: true,
        ..WIDE
    };

    #[test]
    fn a_domain_for_two_units_has_what_both_can() {
        assert_eq!(WIDE.and(&NARROW), Ok(NARROW));
        assert_eq!(NARROW.and(&WIDE), Ok(NARROW));
        assert_eq!(WIDE.and(&WIDE), Ok(WIDE));
        let deep = Abilities { depths: Depths(0b100000), ..WIDE };
        assert_eq!(deep.and(&WIDE), Err(Mismatch::Depth));
        let other = Abilities { walks: Walks::AmdV1, ..WIDE };
        assert_eq!(other.and(&WIDE), Err(Mismatch::Layout));
    }

    #[test]
    fn a_unit_suits_a_domain_that_asks_no_more_than_it_can() {
        assert_eq!(WIDE.suit(&NARROW), Ok(()));
        let lacks = |change: fn(&mut Abilities)| {
            let mut unit = WIDE;
            change(&mut unit);
            unit.suit(&WIDE)
        };
        assert_eq!(lacks(|_| ()), Ok(()));
        assert_eq!(lacks(|unit| unit.walks = Walks::AmdV1), Err(Mismatch::Layout));
        assert_eq!(lacks(|unit| unit.depths = Depths(0b1000)), Err(Mismatch::Depth));
        assert_eq!(lacks(|unit| unit.page_sizes = 0x20_1000), Err(Mismatch::PageSizes));
        assert_eq!(lacks(|unit| unit.address_bits = 47), Err(Mismatch::AddressBits));
        assert_eq!(lacks(|unit| unit.coherent = false), Err(Mismatch::Coherency));
        assert_eq!(lacks(|unit| unit.write_needs_read = true), Err(Mismatch::WriteNeedsRead));
    }

    #[test]
    fn depths_are_a_set() {
        let depths = Depths::new([4, 3, 0, 9, 255]);
        assert_eq!((depths, depths.to_string().as_str()), (Depths(0b11000), "3, 4"));
        assert!(depths.contains(3) && !depths.contains(5) && !depths.contains(200));
    }
}
