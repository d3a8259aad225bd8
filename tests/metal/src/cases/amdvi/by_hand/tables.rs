//! Reading and writing tables.

use core::sync::atomic::Ordering;

use dma_types::{PAGE_SIZE, PhysAddr, SourceId};
use iommu_engine::platform::{Platform, TableFrame};

use super::entries::DeviceEntry;
use crate::harness::{Failure, Outcome};

/// How many devices a device table of full size has.
const DEVICES: usize = 1 << 16;
/// How many frames that is.
pub const DEVICE_TABLE_FRAMES: usize = DEVICES * size_of::<DeviceEntry>() / PAGE_SIZE as usize;
/// Writes a device's entry, the first quadword last: it says that the entry is valid.
pub fn write_device(
    platform: &impl Platform,
    table: PhysAddr,
    device: SourceId,
    entry: DeviceEntry,
) -> Outcome {
    let first = usize::from(device.get()) * entry.len();
    for (at, word) in entry.iter().enumerate().rev() {
        write_word(platform, table, first + at, *word)?;
    }
    Ok(())
}

/// Writes a word of a table of any number of frames.
pub fn write_word(platform: &impl Platform, table: PhysAddr, index: usize, word: u64) -> Outcome {
    let frame = PhysAddr::new(table.get() + (index / 512) as u64 * PAGE_SIZE);
    let words = platform.table(frame).ok_or(Failure("no such table".into()))?;
    words[index % 512].store(word, Ordering::Release);
    Ok(())
}

/// The word of a table frame at this address.
pub(super) fn word(platform: &impl Platform, place: PhysAddr) -> Outcome<u64> {
    let frame = PhysAddr::new(place.get() & !(PAGE_SIZE - 1));
    let words = table(platform, frame)?;
    Ok(words[(place.get() % PAGE_SIZE / 8) as usize].load(Ordering::Acquire))
}

/// Whether nothing is in a page table.
pub(super) fn is_empty(platform: &impl Platform, root: PhysAddr) -> Outcome<bool> {
    Ok(table(platform, root)?.iter().all(|word| word.load(Ordering::Acquire) == 0))
}

fn table(platform: &impl Platform, frame: PhysAddr) -> Outcome<&TableFrame> {
    platform.table(frame).ok_or(Failure("no such table".into()))
}
