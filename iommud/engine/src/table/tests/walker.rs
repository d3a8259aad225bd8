//! A walker of second-stage tables that shares nothing with the engine: what hardware would find, by the
//! bits that VT-d's specification gives (9.8; compared with QEMU's and Linux's walkers).

use core::sync::atomic::Ordering;

use dma_types::PhysAddr;

use crate::fakes::FakeFrames;
use crate::platform::TableFrames;

/// Physical address, whether it may be read, whether it may be written.
pub(super) fn walk(
    frames: &FakeFrames,
    root: PhysAddr,
    levels: u32,
    iova: u64,
) -> Option<(u64, bool, bool)> {
    if iova >> (12 + 9 * levels) != 0 {
        return None;
    }
    let (mut at, mut read, mut write) = (root.get(), true, true);
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * (level - 1);
        let table = frames.table(PhysAddr::new(at))?;
        let entry = table[(iova >> shift & 0x1ff) as usize].load(Ordering::Acquire);
        if entry & 0b11 == 0 {
            return None;
        }
        read &= entry & 0b01 != 0;
        write &= entry & 0b10 != 0;
        let address = entry & 0x000f_ffff_ffff_f000;
        if level == 1 || entry & 0x80 != 0 {
            assert!(level <= 3, "no unit has pages of 512 GiB");
            let inside = (1 << shift) - 1;
            assert_eq!(address & inside, 0, "reserved bits of a large page");
            return Some((address | iova & inside, read, write));
        }
        at = address;
    }
    None
}
