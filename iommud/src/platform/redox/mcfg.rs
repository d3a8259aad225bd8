//! The MCFG table: where PCI configuration space lies in memory (PCI Firmware Specification 3.3, 4.1.2).

use dma_types::{PciAddress, PhysAddr};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Bytes before the first entry: the header of every ACPI table (36) and a reserved field (8).
const ENTRIES_AT: usize = 44;

/// The configuration space of one bus: 32 devices of 8 functions of 4 KiB.
pub const BUS_BYTES: usize = 1 << 20;

/// One entry as it lies in the table.
#[derive(Clone, Copy, Debug, FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    base: U64,
    segment: U16,
    first_bus: u8,
    last_bus: u8,
    reserved: U32,
}

/// The buses of a segment whose configuration space is mapped to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusRange {
    /// Where bus 0 of the segment is, or would be: not the first bus.
    pub base: PhysAddr,
    /// The segment.
    pub segment: u16,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus, inclusive.
    pub last_bus: u8,
}

/// What an MCFG table says, as far as it makes sense: an entry whose buses run backwards, whose base is no
/// multiple of a megabyte or whose end is past the end of memory is left out, and so is a cut-off one.
pub fn bus_ranges(table: &[u8]) -> Vec<BusRange> {
    let entries = table.get(ENTRIES_AT..).unwrap_or_default();
    let (entries, _cut_off) = entries.as_chunks::<{ size_of::<Entry>() }>();
    let ranges = entries.iter().filter_map(|bytes| Entry::read_from_bytes(bytes).ok());
    ranges
        .map(|entry| BusRange {
            base: PhysAddr::new(entry.base.get()),
            segment: entry.segment.get(),
            first_bus: entry.first_bus,
            last_bus: entry.last_bus,
        })
        .filter(|range| {
            let bytes = (u64::from(range.last_bus) + 1) * BUS_BYTES as u64;
            range.first_bus <= range.last_bus
                && range.base.is_aligned(BUS_BYTES as u64)
                && range.base.checked_add(bytes).is_some()
        })
        .collect()
}

/// Where the configuration space of a function's bus starts, and the function's own place in it.
pub fn place(ranges: &[BusRange], function: PciAddress) -> Option<(PhysAddr, usize)> {
    let bus = function.bus();
    let range = ranges.iter().find(|range| {
        range.segment == function.segment() && (range.first_bus..=range.last_bus).contains(&bus)
    })?;
    let bus_start = range.base.checked_add(u64::from(bus) * BUS_BYTES as u64)?;
    Some((bus_start, usize::from(function.source().devfn()) << 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of QEMU's q35 machine: one entry, 256 buses from 0xb0000000.
    #[rustfmt::skip]
    const Q35: [u8; 60] = [
        b'M', b'C', b'F', b'G', 0x3c, 0, 0, 0, 1, 0, b'B', b'O', b'C', b'H', b'S', b' ',
        b'B', b'X', b'P', b'C', b' ', b' ', b' ', b' ', 1, 0, 0, 0, b'B', b'X', b'P', b'C',
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0,
    ];

    fn with_entry(entry: [u8; 16]) -> Vec<u8> {
        [&Q35[..44], &entry].concat()
    }

    #[test]
    fn an_entry_is_read_from_literal_bytes() {
        let range =
            BusRange { base: PhysAddr::new(0xb000_0000), segment: 0, first_bus: 0, last_bus: 255 };
        assert_eq!(bus_ranges(&Q35), [range]);
    }

    #[test]
    fn r5_whatever_a_table_holds_what_is_read_from_it_makes_sense() {
        let trial = fuzz::Trial { name: "MCFG", steps: 20_000, each: 1 };
        trial.run(|mut steps| {
            let Some(mut chance) = steps.next() else { return false };
            let mut table = Q35.to_vec();
            for _ in 0..chance.below(4) {
                table.extend(chance.long().to_le_bytes());
                table.extend([0, 0, chance.byte(), chance.byte(), 0, 0, 0, 0]);
            }
            chance.change(&mut table);
            let ranges = bus_ranges(&table);
            for range in &ranges {
                let end = range.base.checked_add((u64::from(range.last_bus) + 1) << 20);
                assert!(range.first_bus <= range.last_bus && end.is_some(), "{range:?}");
            }
            let source = dma_types::SourceId::new(chance.word());
            let function = PciAddress::from_source(chance.below(2) as u16, source);
            if let Some((start, inside)) = place(&ranges, function) {
                assert!(start.is_aligned(BUS_BYTES as u64) && inside < BUS_BYTES, "{function}");
            }
            !ranges.is_empty()
        });
    }

    #[test]
    fn a_function_lies_at_its_bus_device_and_function() {
        let ranges = bus_ranges(&Q35);
        let function = PciAddress::new(0, 2, 3, 1).unwrap();
        assert_eq!(place(&ranges, function), Some((PhysAddr::new(0xb020_0000), 0x19000)));
        assert_eq!(place(&ranges, PciAddress::new(1, 2, 3, 1).unwrap()), None);
    }

    #[test]
    fn the_base_is_that_of_bus_zero_whatever_the_first_bus() {
        let table = with_entry([0, 0, 0, 0xe0, 0, 0, 0, 0, 7, 0, 0x40, 0x7f, 0, 0, 0, 0]);
        let ranges = bus_ranges(&table);
        let at = |bus| place(&ranges, PciAddress::new(7, bus, 0, 0).unwrap());
        assert_eq!(at(0x40), Some((PhysAddr::new(0xe400_0000), 0)));
        assert_eq!((at(0x3f), at(0x80)), (None, None));
    }

    #[test]
    fn r5_a_table_that_makes_no_sense_says_nothing() {
        let backwards = with_entry([0, 0, 0, 0xe0, 0, 0, 0, 0, 0, 0, 9, 8, 0, 0, 0, 0]);
        let crooked = with_entry([1, 0, 0, 0xe0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
        let too_high = with_entry([0, 0, 0xf0, 255, 255, 255, 255, 255, 0, 0, 0, 255, 0, 0, 0, 0]);
        for table in [&backwards, &crooked, &too_high] {
            assert_eq!(bus_ranges(table), []);
        }
        for length in 0..Q35.len() {
            assert_eq!(bus_ranges(&Q35[..length]), [], "{length} bytes");
        }
    }
}
