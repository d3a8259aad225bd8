//! Large tables are read in time that grows with their size, and no faster.

use std::time::{Duration, Instant};

use iommu_engine::acpi::dmar::Dmar;
use iommu_engine::acpi::ivrs::Ivrs;

use crate::corpus::seal;

/// Far larger than tables of machines are, so that time which grows with the square of it would be minutes.
const SIZE: usize = 4 << 20;

/// Plenty, for what takes well under a second unoptimised.
const LIMIT: Duration = Duration::from_secs(20);

/// A table of `SIZE` bytes or a little less, of what `piece` gives for each number.
fn table(signature: &[u8; 4], piece: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let mut table = vec![0; 48];
    table[..4].copy_from_slice(signature);
    for number in 0.. {
        let piece = piece(number);
        if table.len() + piece.len() > SIZE {
            break;
        }
        table.extend(piece);
    }
    seal(&mut table);
    table
}

fn in_time<T>(parse: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let parsed = parse();
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    parsed
}

/// A block or structure of all the bytes it can have, which starts with `start` and goes on with `entry`.
fn full(start: &[u8], entry: &[u8]) -> Vec<u8> {
    let entries = (usize::from(u16::MAX) - start.len()) / entry.len();
    let mut block = [start.to_vec(), entry.repeat(entries)].concat();
    let length = u16::try_from(block.len()).unwrap().to_le_bytes();
    block[2..4].copy_from_slice(&length);
    block
}

#[test]
fn r5_an_ivrs_table_of_many_units_is_read_in_time() {
    // Each another function, at an address of its own; then all at the same.
    for apart in [1, 0] {
        let bytes = table(b"IVRS", |number| {
            let mut block = vec![0x10, 0, 24, 0];
            block.extend((number as u16).to_le_bytes());
            block.extend([0x40, 0]);
            block.extend(((u64::from(number) * apart + 1) << 14).to_le_bytes());
            block.extend(((number >> 16) as u16).to_le_bytes());
            block.extend([0; 6]);
            block
        });
        let ivrs = in_time(|| Ivrs::parse(&bytes).unwrap());
        let all = (SIZE - 48) / 24;
        assert_eq!(ivrs.units.len(), if apart == 1 { all } else { 1 });
        assert_eq!(ivrs.units.len() + ivrs.refused.len(), all);
    }
    let bytes = table(b"IVRS", |_| [&[0x11, 0, 40, 0, 2][..], &[0; 35]].concat());
    let ivrs = in_time(|| Ivrs::parse(&bytes).unwrap());
    assert_eq!(ivrs.refused.len(), (SIZE - 48) / 40);
}

#[test]
fn r5_an_ivrs_table_of_many_entries_is_read_in_time() {
    let ivhd = |number: u32| {
        let mut start = vec![0x10, 0, 0, 0];
        start.extend((number as u16).to_le_bytes());
        start.extend([0x40, 0]);
        start.extend((u64::from(number + 1) << 14).to_le_bytes());
        start.extend([0; 8]);
        start
    };
    let named = [&[0xf0, 0, 0, 0, b'A'][..], &[0; 17]].concat();
    let kinds: [&[u8]; 6] = [
        &[0x02, 1, 0, 0],
        &[0x03, 1, 0, 0],
        &[0x04, 1, 0, 0],
        &[0x05, 1, 0, 0],
        &[0x03, 1, 0, 0, 0x04, 9, 0, 0],
        &named,
    ];
    for entry in kinds {
        let bytes = table(b"IVRS", |number| full(&ivhd(number), entry));
        let ivrs = in_time(|| Ivrs::parse(&bytes).unwrap());
        assert!(ivrs.units.len() >= 60, "{}", ivrs.units.len());
        let entries: usize = ivrs.units.iter().map(|unit| unit.entries.len()).sum();
        assert!(entries + ivrs.refused.len() + ivrs.skipped.len() > SIZE / 24);
    }
}

#[test]
fn r5_an_ivrs_table_of_many_blocks_is_read_in_time() {
    let bytes = table(b"IVRS", |_| vec![0x51, 0, 4, 0]);
    assert_eq!(in_time(|| Ivrs::parse(&bytes).unwrap()).skipped.len(), (SIZE - 48) / 4);
    let bytes = table(b"IVRS", |_| [&[0x20, 8, 32, 0][..], &[0; 28]].concat());
    assert_eq!(in_time(|| Ivrs::parse(&bytes).unwrap()).refused.len(), (SIZE - 48) / 32);
}

#[test]
fn r5_a_dmar_table_of_many_units_is_read_in_time() {
    for apart in [1, 0] {
        let bytes = table(b"DMAR", |number| {
            let mut unit = vec![0, 0, 16, 0, 0, 0, 0, 0];
            unit.extend(((u64::from(number) * apart + 1) << 12).to_le_bytes());
            unit
        });
        let dmar = in_time(|| Dmar::parse(&bytes).unwrap());
        let all = (SIZE - 48) / 16;
        assert_eq!(dmar.units.len(), if apart == 1 { all } else { 1 });
        assert_eq!(dmar.units.len() + dmar.refused.len(), all);
    }
}

#[test]
fn r5_a_dmar_table_of_many_scopes_is_read_in_time() {
    let start = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0];
    for scope in [&[1, 6, 0, 0, 0, 0][..], &[2, 8, 0, 0, 0, 0, 0x1c, 0]] {
        let bytes = table(b"DMAR", |_| full(&start, scope));
        let dmar = in_time(|| Dmar::parse(&bytes).unwrap());
        assert_eq!(dmar.units.len(), 1);
    }
    let bytes = table(b"DMAR", |_| vec![9, 0, 4, 0]);
    assert_eq!(in_time(|| Dmar::parse(&bytes).unwrap()).skipped.len(), (SIZE - 48) / 4);
}
