//! Physical memory in pieces, taken from the front by as many pages alike as one table holds.

use dma_types::PAGE_SIZE;

use super::format::{INDEX_BITS, PAGE_SHIFT, shift, table_mask};
use crate::platform::Segment;

/// What is left of some segments, which are not empty. Neighbours that are adjacent in memory count as one.
#[derive(Clone, Debug)]
pub(super) struct Pieces<'a> {
    /// Where the first piece is to be mapped.
    iova: u64,
    start: u64,
    bytes: u64,
    rest: &'a [Segment],
}

/// Pages of one size, side by side in one table and in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) iova: u64,
    pub(super) start: u64,
    pub(super) bytes: u64,
    /// The logarithm of a page's length.
    pub(super) order: u32,
    /// The level of the table.
    pub(super) level: u8,
}

impl Batch {
    /// How many entries the pages fill.
    #[inline]
    pub(super) fn slots(&self) -> usize {
        (self.bytes >> shift(self.level)) as usize
    }
}

impl<'a> Pieces<'a> {
    #[inline]
    pub(super) fn new(iova: u64, segments: &'a [Segment]) -> Self {
        Self { iova, start: 0, bytes: 0, rest: segments }
    }

    /// The next pages, of the largest of these sizes that addresses and length allow.
    #[inline]
    pub(super) fn next(&mut self, sizes: u64) -> Option<Batch> {
        if self.bytes == 0 {
            self.refill()?;
        }
        let Self { iova, start, .. } = *self;
        if self.bytes == PAGE_SIZE {
            self.bytes = 0;
            // Past the last address there is, when nothing is left.
            self.iova = iova.wrapping_add(PAGE_SIZE);
            return Some(Batch { iova, start, bytes: PAGE_SIZE, order: PAGE_SHIFT, level: 0 });
        }
        // Sizes, as bits: those that both addresses are aligned to and that are not too long.
        let short = (2 << (self.bytes | 1).ilog2()) - 1;
        let fits = sizes & up_to_lowest(iova | start) & short;
        let order = (fits | 1 << PAGE_SHIFT).ilog2();
        let level = ((order - PAGE_SHIFT) / INDEX_BITS) as u8;
        // Pages alike end with the table, or where one of the next size could start.
        let page = 1u64 << order;
        let larger = sizes & up_to_lowest(iova ^ start) & !(page | (page - 1));
        let border = iova | (larger & larger.wrapping_neg()).wrapping_sub(1);
        let last = (iova + (self.bytes - 1)).min(border).min(iova | table_mask(level));
        let bytes = (last - iova + 1) & !(page - 1);
        // Past the last address there is, when nothing is left.
        self.iova = iova.wrapping_add(bytes);
        self.start += bytes;
        self.bytes -= bytes;
        Some(Batch { iova, start, bytes, order, level })
    }

    #[inline]
    fn refill(&mut self) -> Option<()> {
        let (first, mut rest) = self.rest.split_first()?;
        let mut bytes = first.bytes;
        while let Some((next, after)) = rest.split_first()
            && first.start.get() + bytes == next.start.get()
        {
            bytes += next.bytes;
            rest = after;
        }
        (self.start, self.bytes, self.rest) = (first.start.get(), bytes, rest);
        Some(())
    }
}

/// The lowest bit that is set and all below it; all bits for zero.
#[inline]
const fn up_to_lowest(bits: u64) -> u64 {
    bits ^ bits.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use dma_types::PhysAddr;

    use super::*;

    const SMALL: u64 = 1 << 12;
    const WITH_LARGE: u64 = 1 << 12 | 1 << 21 | 1 << 30;
    const EVERY: u64 = (1 << 33) - (1 << 12);

    /// Address, memory, length, logarithm of the pages.
    fn batches(iova: u64, segments: &[(u64, u64)], sizes: u64) -> Vec<(u64, u64, u64, u32)> {
        let segment = |&(start, bytes)| Segment { start: PhysAddr::new(start), bytes };
        let segments: Vec<_> = segments.iter().map(segment).collect();
        let mut pieces = Pieces::new(iova, &segments);
        core::iter::from_fn(|| pieces.next(sizes))
            .map(|batch| (batch.iova, batch.start, batch.bytes, batch.order))
            .collect()
    }

    #[test]
    fn adjacent_segments_are_one_piece() {
        let segments = [(0x1000, 0x1000), (0x2000, 0x3000), (0x9000, 0x1000)];
        let expected = [(0x7000, 0x1000, 0x4000, 12), (0xb000, 0x9000, 0x1000, 12)];
        assert_eq!(batches(0x7000, &segments, SMALL), expected);
        assert_eq!(batches(0, &[], SMALL), []);
    }

    #[test]
    fn a_batch_ends_with_the_table() {
        let expected = [(0x1f_f000, 0x5000, 0x1000, 12), (0x20_0000, 0x6000, 0x2000, 12)];
        assert_eq!(batches(0x1f_f000, &[(0x5000, 0x3000)], WITH_LARGE), expected);
    }

    #[test]
    fn pages_become_larger_where_they_can_and_smaller_at_the_end() {
        let expected = [
            (0x3fff_f000, 0x7fff_f000, 0x1000, 12),
            (0x4000_0000, 0x8000_0000, 0x4000_0000, 30),
            (0x8000_0000, 0xc000_0000, 0x40_0000, 21),
            (0x8040_0000, 0xc040_0000, 0x2000, 12),
        ];
        assert_eq!(batches(0x3fff_f000, &[(0x7fff_f000, 0x4040_3000)], WITH_LARGE), expected);
        let expected = [
            (0x3000, 0x13000, 0x1000, 12),
            (0x4000, 0x14000, 0x4000, 14),
            (0x8000, 0x18000, 0x2000, 13),
            (0xa000, 0x1a000, 0x1000, 12),
        ];
        assert_eq!(batches(0x3000, &[(0x13000, 0x8000)], EVERY), expected);
    }

    #[test]
    fn addresses_that_are_not_alike_keep_to_small_pages() {
        assert_eq!(batches(0, &[(0x1000, 0x10_0000)], EVERY), [(0, 0x1000, 0x10_0000, 12)]);
    }
}
