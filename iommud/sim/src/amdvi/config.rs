//! What a unit can do, and how slowly.

use super::registers::ExtendedFeatures;
use crate::pace::{Completion, Health};

/// How slow each interface of a unit is. It may be changed while the unit runs, and what is then pending
/// follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct AmdviTiming {
    /// Commands in the buffer, from when the tail was written.
    pub commands: Completion,
    /// CmdBufRun following CmdBufEn when that is cleared.
    pub stop: Completion,
    /// How often the unit must be looked at (a register accessed, or time told) for each command. 0: all
    /// commands at once.
    pub looks_per_command: u32,
}

/// What a unit can do. The default is a roomy one: 6 levels, 48 physical bits, no cache of what is not
/// present, INVALIDATE_IOMMU_ALL and nothing else that is optional.
#[derive(Clone, Debug)]
pub struct AmdviConfig {
    /// There is an Extended Feature Register (EFRSup in the PCI capability). Without one it reads as zero:
    /// 4 levels and nothing optional.
    pub extended_features: bool,
    /// HATS: 0 is 4 levels, 1 is 5, 2 is 6; 3 is reserved.
    pub table_depth: u8,
    /// INVALIDATE_IOMMU_ALL is a command (IASup).
    pub invalidate_all: bool,
    /// PREFETCH_IOMMU_PAGES is a command (PreFSup).
    pub prefetch: bool,
    /// DevTblSegSup: the device table may be in up to `2^N` segments.
    pub segments: u8,
    /// Bits that are set in the Extended Feature Register besides, by their places there.
    pub more_features: u64,
    /// Devices may have translation caches of their own (IotlbSup). No simulated device has one.
    pub device_tlb: bool,
    /// What is not present is cached too (NpCache).
    pub np_cache: bool,
    /// A walk caches the other seven entries of the leaf's cache line too, as far as they are present (or,
    /// with [`np_cache`](Self::np_cache), all of them).
    pub eager: bool,
    /// Width of physical addresses in bits (PASize).
    pub host_address_bits: u8,
    /// Width of the addresses that devices use in bits (VASize): 32, 40, 48 or 64. No page is found beyond.
    pub device_address_bits: u8,
    /// Tables are read through the CPUs' caches whatever software says. Without it they are only while
    /// Control.Coherent is set, which the IVRS table asks for.
    pub coherent: bool,
    /// Events are written into the log. QEMU's units up to version 10.0 write none.
    pub logs_events: bool,
    /// Events of pages that are not present tell the direction too, as all units seen do. The specification
    /// promises RW only where PR is set.
    pub direction_always: bool,
    /// After this many commands the next is not carried out: the unit reports COMMAND_HARDWARE_ERROR and
    /// stops the buffer.
    pub stop_after: Option<u64>,
    /// The MSI number in the PCI capability and the IVRS table.
    pub msi_number: u8,
    /// The length of the register window in bytes, at least 0x2028. 512 KiB where there are performance
    /// counters.
    pub window_bytes: u64,
    /// How slow the unit is.
    pub timing: AmdviTiming,
    /// Whether the unit answers at all.
    pub health: Health,
}

impl Default for AmdviConfig {
    fn default() -> Self {
        Self {
            extended_features: true,
            table_depth: 2,
            invalidate_all: true,
            prefetch: false,
            segments: 0,
            more_features: 0,
            device_tlb: false,
            np_cache: false,
            eager: false,
            host_address_bits: 48,
            device_address_bits: 64,
            coherent: true,
            logs_events: true,
            direction_always: true,
            stop_after: None,
            msi_number: 0,
            window_bytes: 0x4000,
            timing: AmdviTiming::default(),
            health: Health::default(),
        }
    }
}

impl AmdviConfig {
    /// What the Extended Feature Register reads as, and the IVRS table's image of it.
    pub fn features(&self) -> u64 {
        let features = ExtendedFeatures::new()
            .with_prefetch(self.prefetch)
            .with_invalidate_all(self.invalidate_all)
            .with_table_depth(self.table_depth & 3)
            .with_segments(self.segments & 3);
        if self.extended_features { features.into_bits() | self.more_features } else { 0 }
    }

    /// What of it the unit goes by.
    pub(crate) fn offered(&self) -> ExtendedFeatures {
        ExtendedFeatures::from_bits(self.features())
    }

    /// How many levels a table may have.
    pub(crate) fn max_levels(&self) -> u8 {
        4 + self.offered().table_depth().min(2)
    }

    /// Whether a physical address has bits that this unit has not.
    pub(crate) fn is_beyond_host(&self, address: u64) -> bool {
        address.checked_shr(self.host_address_bits.into()).unwrap_or(0) != 0
    }

    /// Whether a device's address has bits that this unit does not translate.
    pub(crate) fn is_beyond_device(&self, address: u64) -> bool {
        address.checked_shr(self.device_address_bits.into()).unwrap_or(0) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_knob_shows_in_its_bit() {
        assert_eq!(AmdviConfig::default().features(), 0x840);
        assert_eq!(AmdviConfig::default().max_levels(), 6);
        let config = AmdviConfig {
            table_depth: 1,
            invalidate_all: false,
            prefetch: true,
            segments: 3,
            more_features: 1 << 9,
            ..AmdviConfig::default()
        };
        assert_eq!((config.features(), config.max_levels()), (0x0000_00c0_0000_0601, 5));
        let old = AmdviConfig { extended_features: false, ..config };
        assert_eq!((old.features(), old.max_levels()), (0, 4));
        assert!(old.is_beyond_host(1 << 48) && !old.is_beyond_host((1 << 48) - 1));
        let narrow = AmdviConfig { device_address_bits: 40, ..old };
        assert!(narrow.is_beyond_device(1 << 40) && !narrow.is_beyond_device((1 << 40) - 1));
        assert!(!AmdviConfig::default().is_beyond_device(u64::MAX));
    }
}
