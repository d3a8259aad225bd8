//! What a unit is told about its tables.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use dma_types::{Iova, PAGE_SIZE, PhysAddr};

use super::DomainId;

/// Which entries of a page table changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Only entries that map pages: what a unit caches of the tables above them may stay.
    Leaves,
    /// Entries that point to tables, too.
    Tables,
}

/// A range of a domain whose table has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where it starts.
    pub start: Iova,
    /// How long it is. It covers every large page whole of which a part has changed.
    pub bytes: u64,
    /// What has changed in the table.
    pub touched: Touched,
}

/// The most requests at one go: for more, a unit is told to forget the whole domain. Each takes its time, and a domain
/// of which so many separate places are unmapped at once has little left that would have to be looked up again.
pub const MOST_AT_ONCE: usize = 16;

/// What a unit is asked for at one go, in the order in which it is.
pub type Requests<T> = ArrayVec<T, MOST_AT_ONCE>;

/// Makes one of changes that lie side by side, or with no more than a guard page between them, in which nothing is
/// mapped that could be forgotten besides. They must be in order.
#[inline]
pub fn merge(changes: &mut Vec<Changed>) {
    if changes.len() > 1 {
        merge_several(changes);
    }
}

fn merge_several(changes: &mut Vec<Changed>) {
    changes.dedup_by(|next, before| {
        let end = before.start.get().saturating_add(before.bytes);
        let near = next.start.get() <= end.saturating_add(PAGE_SIZE);
        if near {
            let last = next.start.get().saturating_add(next.bytes).max(end);
            before.bytes = last - before.start.get();
            if next.touched == Touched::Tables {
                before.touched = Touched::Tables;
            }
        }
        near
    });
}

/// How a device's requests are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The tag of what is cached.
    pub domain: DomainId,
    /// The root of the page table.
    pub table: PhysAddr,
    /// How many levels the table has.
    pub levels: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(start: u64, bytes: u64, touched: Touched) -> Changed {
        Changed { start: Iova::new(start), bytes, touched }
    }

    #[test]
    fn r2_merged_changes_are_all_that_they_are_made_of() {
        use Touched::{Leaves, Tables};
        let mut changes = alloc::vec![
            change(0x1000, 0x1000, Leaves),
            change(0x2000, 0x1000, Leaves),
            // A guard page lies between, and then two pages.
            change(0x4000, 0x2000, Tables),
            change(0x8000, 0x1000, Leaves),
            // The large page whole of which a part has changed.
            change(0x20_0000, 0x20_0000, Leaves),
            change(0x20_3000, 0x1000, Leaves),
            change(0xffff_ffff_ffff_f000, u64::MAX, Leaves),
        ];
        merge(&mut changes);
        let expected = [
            change(0x1000, 0x5000, Tables),
            change(0x8000, 0x1000, Leaves),
            change(0x20_0000, 0x20_0000, Leaves),
            change(0xffff_ffff_ffff_f000, u64::MAX, Leaves),
        ];
        assert_eq!(changes, expected);
    }
}
