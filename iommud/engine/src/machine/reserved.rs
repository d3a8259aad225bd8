//! Memory that firmware reserves for devices.

use alloc::vec::Vec;
use core::fmt;

use dma_types::{Access, Iova, PhysAddr};

use crate::acpi::dmar::Rmrr;
use crate::acpi::ivrs::Ivmd;
use crate::iova::IovaRange;

/// Memory that firmware reserves for a device: whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedRange {
    /// Where it starts.
    pub start: PhysAddr,
    /// How long it is.
    pub bytes: u64,
    /// What the device may do with it.
    pub access: Access,
}

impl ReservedRange {
    /// The I/O addresses where it is mapped, which are the same.
    pub const fn as_iova_range(self) -> IovaRange {
        IovaRange::new(Iova::new(self.start.get()), self.bytes)
    }

    /// Whether it has a byte in common with the `bytes` bytes at `start`.
    pub(crate) const fn overlaps(self, start: u64, bytes: u64) -> bool {
        let own = self.start.get();
        if own < start { start - own < self.bytes } else { self.bytes != 0 && own - start < bytes }
    }
}

impl From<&Rmrr> for ReservedRange {
    fn from(region: &Rmrr) -> Self {
        Self { start: region.base, bytes: region.bytes(), access: Access::ReadWrite }
    }
}

impl ReservedRange {
    /// What a block of AMD's table reserves; `None` for one that lets nobody do anything.
    pub fn from_ivmd(memory: &Ivmd) -> Option<Self> {
        Some(Self { start: memory.base, bytes: memory.bytes(), access: memory.access()? })
    }
}

impl fmt::Display for ReservedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_iova_range().fmt(f)?;
        match self.access {
            Access::ReadWrite => Ok(()),
            access => write!(f, " {access}"),
        }
    }
}

/// Ranges with those that overlap or touch made one, where the same may be done with them: firmware may name
/// the same memory twice, for a device and for the bridge above it. They do not overlap afterwards, and what
/// any of them allows is allowed.
pub(crate) fn merged(ranges: Vec<ReservedRange>) -> Vec<ReservedRange> {
    // Where readable or writable memory starts and ends.
    let mut edges: Vec<(u128, i32, i32)> = Vec::new();
    for range in ranges.iter().filter(|range| range.bytes != 0) {
        let (start, access) = (u128::from(range.start.get()), range.access);
        let (read, write) = (i32::from(access.may_read()), i32::from(access.may_write()));
        edges.push((start, read, write));
        edges.push((start + u128::from(range.bytes), -read, -write));
    }
    edges.sort_unstable_by_key(|edge| edge.0);
    let mut merged: Vec<ReservedRange> = Vec::new();
    let (mut from, mut readers, mut writers) = (0, 0, 0);
    for (at, read, write) in edges {
        let access = Access::from_permissions(readers > 0, writers > 0);
        if let Some(access) = access.filter(|_| at > from) {
            let bytes = (at - from) as u64;
            match merged.last_mut() {
                Some(last)
                    if last.access == access
                        && u128::from(last.start.get()) + u128::from(last.bytes) == from =>
                {
                    last.bytes += bytes;
                }
                _ => {
                    merged.push(ReservedRange { start: PhysAddr::new(from as u64), bytes, access })
                }
            }
        }
        from = at;
        readers += read;
        writers += write;
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    const fn range(start: u64, bytes: u64, access: Access) -> ReservedRange {
        ReservedRange { start: PhysAddr::new(start), bytes, access }
    }

    use Access::{Read, ReadWrite, Write};

    #[test]
    fn ranges_that_overlap_or_touch_are_one() {
        let ranges = vec![
            range(0x5000, 0x1000, ReadWrite),
            range(0x1000, 0x2000, ReadWrite),
            range(0x2000, 0x2000, ReadWrite),
            range(0x4000, 0x1000, ReadWrite),
            range(0x8000, 0x1000, ReadWrite),
        ];
        let expected = [range(0x1000, 0x5000, ReadWrite), range(0x8000, 0x1000, ReadWrite)];
        assert_eq!(merged(ranges), expected);
    }

    #[test]
    fn what_may_be_done_stays_with_its_pages() {
        let ranges = vec![range(0x1000, 0x3000, Read), range(0x3000, 0x3000, Write)];
        let expected = [
            range(0x1000, 0x2000, Read),
            range(0x3000, 0x1000, ReadWrite),
            range(0x4000, 0x2000, Write),
        ];
        assert_eq!(merged(ranges), expected);
        assert_eq!(expected[0].to_string(), "0x1000..=0x2fff r-");
        assert_eq!(expected[1].to_string(), "0x3000..=0x3fff");
    }

    #[test]
    fn r5_ranges_at_the_end_of_memory_do_not_wrap() {
        let last = range(u64::MAX - 0xfff, 0x1000, ReadWrite);
        assert_eq!(merged(vec![last, last]), [last]);
        assert!(last.overlaps(u64::MAX - 7, 8));
        assert!(!last.overlaps(0, 0x1000));
        assert!(range(0x1000, 0x1000, ReadWrite).overlaps(0x1fff, 1));
        assert!(!range(0x1000, 0x1000, ReadWrite).overlaps(0x2000, 1));
    }

    proptest! {
        #[test]
        fn pages_are_reserved_after_merging_as_before(
            pieces in prop::collection::vec((0..32u64, 0..8u64, 0..3usize), 0..12),
        ) {
            let pieces = pieces.into_iter();
            let ranges: Vec<_> = pieces
                .map(|(page, pages, access)| {
                    range(page << 12, pages << 12, [Read, Write, ReadWrite][access])
                })
                .collect();
            let allowed = |ranges: &[ReservedRange], page: u64| {
                let here = ranges.iter().filter(|range| range.overlaps(page << 12, 1));
                here.fold((false, false), |(read, write), range| {
                    (read || range.access.may_read(), write || range.access.may_write())
                })
            };
            let merged = merged(ranges.clone());
            for page in 0..48 {
                prop_assert_eq!(allowed(&ranges, page), allowed(&merged, page));
            }
            for pair in merged.windows(2) {
                let end = pair[0].start.get() + pair[0].bytes;
                prop_assert!(end <= pair[1].start.get());
                prop_assert!(end < pair[1].start.get() || pair[0].access != pair[1].access);
            }
        }
    }
}
