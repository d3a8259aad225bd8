//! What a device reaches by the tables as they are in memory: walked by the specifications, and by nothing of the
//! engine's or the simulator's.

use std::collections::BTreeSet;

use dma_types::PciAddress;
use iommu_sim::Memory;
use iommud::platform::sim::SimPlatform;

use crate::vendor::Vendor;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE: u64 = 4096;

/// Where an address is in memory, and whether it may be read and written.
pub(crate) type Reached = (u64, bool, bool);

/// What a device reaches: I/O addresses as ranges, ordered, of which none goes on with the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach(Vec<(u64, u64, Reached)>);

#[allow(dead_code, reason = "each test program uses a part of it")]
impl Reach {
    /// Adds what is behind all that was added before.
    fn add(&mut self, iova: u64, bytes: u64, reached: Reached) {
        if let Some((start, length, (to, read, write))) = self.0.last_mut() {
            let next = (*start + *length, (*to + *length, *read, *write));
            if next == (iova, reached) {
                *length += bytes;
                return;
            }
        }
        self.0.push((iova, bytes, reached));
    }

    /// How much it is.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes, _)| bytes).sum()
    }

    /// All pages of memory that it is.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u64> {
        let ranges = self.0.iter().map(|(_, bytes, (to, ..))| *to..to + bytes);
        ranges.flat_map(|range| range.step_by(PAGE as usize))
    }

    /// Where each of its ranges starts.
    pub(crate) fn starts(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|(start, ..)| *start)
    }

    /// What is reached at an address.
    pub(crate) fn at(&self, iova: u64) -> Option<Reached> {
        let next = self.0.partition_point(|(start, ..)| *start <= iova);
        let (start, bytes, (to, read, write)) = *self.0.get(next.checked_sub(1)?)?;
        let within = iova - start;
        (within < bytes).then_some((to + within, read, write))
    }
}

/// Whether something is so of each address, by what is reached there in each of these.
pub(crate) fn is_so<const N: usize>(
    reaches: [&Reach; N],
    holds: impl Fn([Option<Reached>; N]) -> bool,
) -> bool {
    let ranges = reaches.iter().flat_map(|reach| &reach.0);
    let ends = ranges.flat_map(|(start, bytes, _)| [*start, start + bytes]);
    let mut ends = ends.collect::<BTreeSet<_>>().into_iter();
    ends.all(|iova| holds(reaches.map(|reach| reach.at(iova))))
}

/// What a device reaches that is behind the unit with registers at `base`.
pub(crate) fn reach(
    platform: &SimPlatform,
    vendor: Vendor,
    base: u64,
    device: PciAddress,
) -> Reach {
    let (mut reach, source) = (Reach::default(), u64::from(device.source().get()));
    let register = |offset| platform.machine_mut().mmio_read(base + offset, 8);
    match vendor {
        Vendor::Vtd => {
            let [bus, _] = words(platform, (register(0x20) & ADDRESS) + (source >> 8) * 16);
            if bus & 1 == 0 {
                return reach;
            }
            let [low, high] = words(platform, (bus & ADDRESS) + (source & 0xff) * 16);
            if low & 1 == 1 {
                second_stage(platform, low & ADDRESS, (high & 7) + 1, 0, &mut reach);
            }
        }
        Vendor::Amdvi => {
            let [entry] = words(platform, (register(0) & ADDRESS) + source * 32);
            assert_eq!(entry & 3, 3, "an entry that does not count lets everything pass");
            if entry >> 61 & 3 != 0 {
                let levels = entry >> 9 & 7;
                host(platform, entry & ADDRESS, levels - 1, 0, &mut reach);
            }
        }
    }
    reach
}

fn words<const N: usize>(platform: &SimPlatform, address: u64) -> [u64; N] {
    let mut bytes = vec![0; 8 * N];
    assert!(platform.machine().memory().read(address, &mut bytes), "{address:#x}");
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|index| u64::from_le_bytes(words[index]))
}

fn second_stage(platform: &SimPlatform, table: u64, level: u64, base: u64, reach: &mut Reach) {
    let span = PAGE << (9 * level);
    for (slot, entry) in words::<512>(platform, table).into_iter().enumerate() {
        let iova = base + slot as u64 * span;
        match entry & 3 {
            0 => {}
            _ if level == 0 || entry & 0x80 != 0 => {
                let start = entry & ADDRESS & !(span - 1);
                reach.add(iova, span, (start, entry & 1 != 0, entry & 2 != 0));
            }
            _ => second_stage(platform, entry & ADDRESS, level - 1, iova, reach),
        }
    }
}

fn host(platform: &SimPlatform, table: u64, level: u64, base: u64, reach: &mut Reach) {
    let span = PAGE << (9 * level);
    for (slot, entry) in words::<512>(platform, table).into_iter().enumerate() {
        let iova = base + slot as u64 * span;
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
        let access = (entry >> 61 & 1 != 0, entry >> 62 & 1 != 0);
        reach.add(iova, span, (start + within, access.0, access.1));
    }
}
