//! What a device reaches by the tables as they are in memory: walked by the specifications, and by nothing of the
//! engine's or the simulator's.

use std::collections::BTreeMap;

use dma_types::PciAddress;
use iommu_engine::platform::Registers;
use iommu_sim::Memory;
use iommud::platform::sim::SimPlatform;

use crate::vendor::Vendor;

/// Each page by its I/O address: where it is in memory, and whether it may be read and written.
pub(crate) type Reach = BTreeMap<u64, (u64, bool, bool)>;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE: u64 = 4096;

/// What a device reaches that is behind the unit with registers at `base`.
pub(crate) fn reach(
    platform: &mut SimPlatform,
    vendor: Vendor,
    base: u64,
    device: PciAddress,
) -> Reach {
    let registers = platform.map_registers(dma_types::PhysAddr::new(base), 4096).unwrap();
    let (mut reach, source) = (Reach::new(), u64::from(device.source().get()));
    match vendor {
        Vendor::Vtd => {
            let root = platform.read64(registers, 0x20) & ADDRESS;
            let bus = word(platform, root + (source >> 8) * 16);
            if bus & 1 == 0 {
                return reach;
            }
            let entry = (bus & ADDRESS) + (source & 0xff) * 16;
            let (low, high) = (word(platform, entry), word(platform, entry + 8));
            if low & 1 == 1 {
                second_stage(platform, low & ADDRESS, (high & 7) + 1, 0, &mut reach);
            }
        }
        Vendor::Amdvi => {
            let table = platform.read64(registers, 0) & ADDRESS;
            let entry = word(platform, table + source * 32);
            assert_eq!(entry & 3, 3, "an entry that does not count lets everything pass");
            if entry >> 61 & 3 != 0 {
                let levels = entry >> 9 & 7;
                host(platform, entry & ADDRESS, levels - 1, 0, &mut reach);
            }
        }
    }
    reach
}

fn word(platform: &SimPlatform, address: u64) -> u64 {
    let mut bytes = [0; 8];
    assert!(platform.machine().memory().read(address, &mut bytes), "{address:#x}");
    u64::from_le_bytes(bytes)
}

fn second_stage(platform: &SimPlatform, table: u64, level: u64, base: u64, reach: &mut Reach) {
    let span = PAGE << (9 * level);
    for slot in 0..512 {
        let (entry, iova) = (word(platform, table + slot * 8), base + slot * span);
        match entry & 3 {
            0 => {}
            _ if level == 0 || entry & 0x80 != 0 => {
                let start = entry & ADDRESS & !(span - 1);
                for page in (0..span).step_by(4096) {
                    reach.insert(iova + page, (start + page, entry & 1 != 0, entry & 2 != 0));
                }
            }
            _ => second_stage(platform, entry & ADDRESS, level - 1, iova, reach),
        }
    }
}

fn host(platform: &SimPlatform, table: u64, level: u64, base: u64, reach: &mut Reach) {
    let span = PAGE << (9 * level);
    for slot in 0..512 {
        let (entry, iova) = (word(platform, table + slot * 8), base + slot * span);
        if entry & 1 == 0 {
            continue;
        }
        let next = entry >> 9 & 7;
        if next != 0 && next != 7 {
            assert_eq!(next, level, "no level is skipped");
            host(platform, entry & ADDRESS, level - 1, iova, reach);
            continue;
        }
        let address = entry & ADDRESS;
        let bytes = match next {
            0 => span,
            _ => 1 << ((address | 0xfff).trailing_ones() + 1),
        };
        let start = address & !(bytes - 1);
        let within = iova & (bytes - 1);
        for page in (0..span).step_by(4096) {
            let access = (entry >> 61 & 1 != 0, entry >> 62 & 1 != 0);
            reach.insert(iova + page, (start + within + page, access.0, access.1));
        }
    }
}
