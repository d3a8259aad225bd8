//! What the unit can do.

use bitfield_struct::{bitenum, bitfield};

use super::file::register;

/// HATS: how deep host tables may be (3.4.7).
#[bitenum]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HostTables {
    /// Up to four levels.
    Levels4 = 0b00,
    /// Up to five levels.
    Levels5 = 0b01,
    /// Up to six levels.
    Levels6 = 0b10,
    /// The unit walks no host tables.
    #[fallback]
    None = 0b11,
}

impl HostTables {
    /// The deepest table, or `None` if the unit walks none.
    pub const fn levels(self) -> Option<u8> {
        match self {
            Self::Levels4 => Some(4),
            Self::Levels5 => Some(5),
            Self::Levels6 => Some(6),
            Self::None => None,
        }
    }
}

/// Extended Feature Register (3.4.7), of a unit whose capability says that it has one (EFRSup). Firmware's
/// table repeats it.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedFeatures {
    /// Bits 5:0. Prefetching, page requests, x2APIC, no-execute and guest translation.
    #[bits(6)]
    __: u8,
    /// IASup, bit 6: the INVALIDATE_IOMMU_ALL command.
    pub invalidate_all: bool,
    /// Bits 9:7. Virtual interrupts, hardware event registers and performance counters.
    #[bits(3)]
    __: u8,
    /// HATS, bits 11:10.
    #[bits(2)]
    pub host_tables: HostTables,
    /// Bits 37:12. Guest translation, the SMI filter, virtual interrupts, second logs and PASIDs.
    #[bits(26)]
    __: u32,
    /// DevTblSegSup, bits 39:38: the logarithm of how many segments the device table may have.
    #[bits(2)]
    pub segments_order: u8,
    /// Bits 63:40. More of what is never turned on.
    #[bits(24)]
    __: u32,
}
register!(ExtendedFeatures: u64, 0x0030, Readable);

impl ExtendedFeatures {
    /// What both the unit and the image of this register in firmware's table promise. They should be alike;
    /// where they are not, one of them hides something, and it had a reason.
    pub fn and(self, image: Self) -> Self {
        let host_tables = match (self.host_tables().levels(), image.host_tables().levels()) {
            (Some(own), Some(said)) if said < own => image.host_tables(),
            (Some(_), None) => HostTables::None,
            _ => self.host_tables(),
        };
        Self::new()
            .with_invalidate_all(self.invalidate_all() && image.invalidate_all())
            .with_host_tables(host_tables)
            .with_segments_order(self.segments_order().min(image.segments_order()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU's, and that of a Ryzen (from its boot log).
    const QEMU: ExtendedFeatures = ExtendedFeatures::from_bits(0x29d3);
    const RYZEN: ExtendedFeatures = ExtendedFeatures::from_bits(0x058f_77ef_2229_4ade);

    #[test]
    fn the_registers_of_known_units_are_read() {
        assert!(QEMU.invalidate_all());
        assert_eq!((QEMU.host_tables(), QEMU.segments_order()), (HostTables::Levels6, 0));
        assert!(RYZEN.invalidate_all());
        assert_eq!((RYZEN.host_tables(), RYZEN.segments_order()), (HostTables::Levels6, 3));
    }

    #[test]
    fn each_field_is_where_the_spec_puts_it() {
        let features = ExtendedFeatures::new;
        assert_eq!(features().with_invalidate_all(true).into_bits(), 0x40);
        assert_eq!(features().with_host_tables(HostTables::Levels6).into_bits(), 0x800);
        assert_eq!(features().with_segments_order(3).into_bits(), 0xc0_0000_0000);
        assert_eq!(ExtendedFeatures::from_bits(0xc00).host_tables(), HostTables::None);
        let levels = |bits| ExtendedFeatures::from_bits(bits).host_tables().levels();
        assert_eq!([levels(0), levels(0x400), levels(0x800)], [Some(4), Some(5), Some(6)]);
    }

    #[test]
    fn r5_where_firmware_and_the_unit_differ_the_lesser_counts() {
        let image = ExtendedFeatures::from_bits(0x40_0000_0440);
        let both = ExtendedFeatures::new()
            .with_invalidate_all(true)
            .with_host_tables(HostTables::Levels5)
            .with_segments_order(1);
        assert_eq!((RYZEN.and(image), image.and(RYZEN)), (both, both));
        assert!(!RYZEN.and(ExtendedFeatures::new()).invalidate_all());
        let none = ExtendedFeatures::from_bits(0xc40);
        assert_eq!(RYZEN.and(none).host_tables(), HostTables::None);
        assert_eq!(none.and(RYZEN).host_tables(), HostTables::None);
    }
}
