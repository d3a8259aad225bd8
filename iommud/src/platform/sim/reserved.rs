//! The memory of regions that firmware reserves.

use iommu_sim::machine::ReservedRegion;

use super::memory::{ARENA, FIRMWARE, FIRMWARE_BYTES};

/// The longest region that there is memory for.
const RESERVED_BYTES: usize = 64 << 20;

/// The memory that a reserved region is made of, as start and length; none where the region makes no sense,
/// is absurdly large or lies where the platform has memory of its own.
pub(super) fn memory_of(region: &ReservedRegion) -> Option<(u64, usize)> {
    let bytes = region.limit.checked_sub(region.base)?.checked_add(1)?;
    let apart = region.limit < FIRMWARE
        || region.base >= FIRMWARE + FIRMWARE_BYTES as u64 && region.limit < ARENA;
    let length = usize::try_from(bytes).ok().filter(|&bytes| bytes <= RESERVED_BYTES)?;
    apart.then_some((region.base, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::sim::SimPlatform;
    use iommu_engine::platform::Platform;
    use iommu_sim::MachineConfig;
    use iommu_sim::amdvi::AmdviConfig;

    fn memory(base: u64, limit: u64) -> Option<(u64, usize)> {
        let config = MachineConfig::default().with_reserved(base, limit, &[]);
        memory_of(&config.reserved[0])
    }

    #[test]
    fn r5_broken_regions_are_in_the_table_and_nowhere_else() {
        assert_eq!(memory(0x7d00_0000, 0x7d00_3fff), Some((0x7d00_0000, 0x4000)));
        for (base, limit) in [
            (0x7d00_0000, 0x7cff_ffff),
            (0x7d00_3000, 0x7d00_0fff),
            (0, u64::MAX),
            (0x1000, 0x7000_0fff),
            (FIRMWARE, FIRMWARE + 0xfff),
            (ARENA, ARENA + 0xfff),
            (0x2_0000_0000, 0x2_0000_0fff),
        ] {
            assert_eq!(memory(base, limit), None, "{base:#x}");
            let config = MachineConfig::with_amdvi(AmdviConfig::default());
            let config = config.with_reserved(base, limit, &[]);
            let mut platform = SimPlatform::with_manual_clock(config).unwrap();
            assert_eq!(platform.acpi_table(*b"DMAR"), Ok(None));
            let table = platform.acpi_table(*b"IVRS").unwrap().unwrap();
            assert_eq!(table[table.len() - 16..][..8], base.to_le_bytes());
        }
    }
}
