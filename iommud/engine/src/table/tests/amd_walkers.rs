//! Walkers of AMD's version 1 host tables that share nothing with the engine: one by the bits and rules of the
//! specification (2.2.3), and the ways in which QEMU's walk, which differ from it and from each other.
//!
//! Levels are numbered as there, from 1.

use core::sync::atomic::Ordering;

use dma_types::PhysAddr;

use crate::fakes::FakeFrames;
use crate::platform::TableFrames;

/// Physical address, whether it may be read, whether it may be written.
pub(super) type Found = Option<(u64, bool, bool)>;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

fn load(frames: &FakeFrames, table: u64, level: u32, iova: u64) -> u64 {
    let index = iova >> (3 + 9 * level) & 0x1ff;
    frames.table(PhysAddr::new(table)).unwrap()[index as usize].load(Ordering::Acquire)
}

/// The length of a page with NextLevel 7: bit 12 clear is 8 KiB, and twice as much for each one that is
/// below the lowest zero.
fn long_page(entry: u64) -> u64 {
    let mut bytes = 0x2000;
    let mut bit = 12;
    while entry >> bit & 1 == 1 {
        assert!(bit < 51, "no zero in the address");
        bytes *= 2;
        bit += 1;
    }
    bytes
}

/// As the specification says. Panics at what it reserves.
pub(super) fn by_the_book(frames: &FakeFrames, root: PhysAddr, mode: u8, iova: u64) -> Found {
    let mut level = u32::from(mode);
    assert!((1..=6).contains(&level));
    if level < 6 && iova >> (12 + 9 * level) != 0 {
        return None;
    }
    let (mut table, mut read, mut write) = (root.get(), true, true);
    loop {
        let entry = load(frames, table, level, iova);
        if entry & 1 == 0 {
            // Software's bits, all of them; QEMU looks at some, and must find nothing that it takes for a page.
            assert_eq!(entry & !0x1e, 0, "bits of an entry that is not in use");
            return None;
        }
        assert_eq!(entry & 0x07f0_0000_0000_0000, 0, "reserved bits");
        assert_eq!(entry & 0x60, 0, "accessed and dirty, which nobody turned on");
        read &= entry & 1 << 61 != 0;
        write &= entry & 1 << 62 != 0;
        let next = (entry >> 9 & 7) as u32;
        let span = 1u64 << (3 + 9 * level);
        let bytes = match next {
            0 => span,
            7 => long_page(entry),
            _ => {
                assert_eq!(entry & 3 << 59, 0, "reserved bits of an entry that points to a table");
                assert!(next < level, "a table that is not below");
                if (iova % span) >> (12 + 9 * next) != 0 {
                    return None;
                }
                (level, table) = (next, entry & ADDRESS);
                continue;
            }
        };
        assert!(level < 6, "the highest level has no pages");
        assert!(entry & 1 << 60 != 0, "not forced to be coherent");
        if next == 0 {
            assert_eq!(entry & ADDRESS & (bytes - 1), 0, "reserved bits of a page");
        } else {
            assert!(bytes > span && bytes < span << 9, "a page that is not for this level");
            let first = iova & !(bytes - 1);
            for slot in 0..bytes / span {
                let twin = load(frames, table, level, first + slot * span);
                // But for what is ignored.
                let ignored = 0x8000_0000_0000_011e;
                assert_eq!(twin & !ignored, entry & !ignored, "entries of a page that differ");
            }
        }
        let start = entry & ADDRESS & !(bytes - 1);
        return Some((start | iova & (bytes - 1), read, write));
    }
}

/// As QEMU up to 10.0 walks: by NextLevel, without a look at skipped bits, at PR of the last entry, or at what the
/// entries above it allow beyond what was asked for.
pub(super) fn by_older_qemu(
    frames: &FakeFrames,
    root: PhysAddr,
    mode: u8,
    iova: u64,
    wanted: u64,
) -> Found {
    // The device table's entry, which has its root and mode where others have address and NextLevel.
    let mut entry = root.get() | u64::from(mode) << 9 | 3 << 61 | 1;
    let mut level = u32::from(mode);
    let above = loop {
        if entry & 1 == 0 || entry & wanted != wanted {
            return None;
        }
        entry = load(frames, entry & ADDRESS, level, iova);
        if entry == 0 {
            return None;
        }
        let above = core::mem::replace(&mut level, (entry >> 9 & 7) as u32);
        if level == 0 || level == 7 {
            break above;
        }
    };
    let bytes = if level == 7 { long_page(entry) } else { 1 << (3 + 9 * above) };
    let allowed = (entry & 1 << 61 != 0, entry & 1 << 62 != 0);
    if allowed == (false, false) {
        return None;
    }
    Some((entry & ADDRESS & !(bytes - 1) | iova & (bytes - 1), allowed.0, allowed.1))
}

/// As later ones walk: a level down with each entry, whatever NextLevel says.
pub(super) fn by_newer_qemu(frames: &FakeFrames, root: PhysAddr, mode: u8, iova: u64) -> Found {
    if mode < 6 && iova >> (12 + 9 * u32::from(mode)) != 0 {
        return None;
    }
    let (mut table, mut read, mut write) = (root.get(), true, true);
    for level in (1..=u32::from(mode)).rev() {
        let entry = load(frames, table, level, iova);
        read &= entry & 1 << 61 != 0;
        write &= entry & 1 << 62 != 0;
        if !read && !write || entry & 1 == 0 {
            return None;
        }
        let bytes = match entry >> 9 & 7 {
            7 => long_page(entry),
            0 => 1 << (3 + 9 * level),
            _ => {
                table = entry & ADDRESS;
                continue;
            }
        };
        return Some((entry & ADDRESS & !(bytes - 1) | iova & (bytes - 1), read, write));
    }
    panic!("a table below the lowest level");
}
