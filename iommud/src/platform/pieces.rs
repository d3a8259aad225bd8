//! Of what pieces a buffer or an arena is made.
//!
//! The memory scheme gives contiguous memory in powers of two of pages up to 4 MiB, aligned to their own size;
//! for any other count it takes the next power of two and loses what is past the count for good.

use dma_types::{PAGE_SIZE, PhysAddr};
use iommu_engine::platform::Segment;

/// The largest piece that the memory scheme gives: 1024 pages, its allocator's highest order.
pub const LARGEST_PIECE: u64 = 1024 * PAGE_SIZE;

/// The smallest chunk that an arena grows by, unless no more is to be had.
const SMALLEST_CHUNK: u64 = 64 * PAGE_SIZE;

/// The size in bytes of the next piece of a buffer of which `missing` bytes have none yet, when pieces above
/// `limit` are not to be had. `None` when nothing is missing, or not even one page is to be had.
pub fn next_piece(missing: u64, limit: u64) -> Option<u64> {
    let most = missing.min(limit);
    (most >= PAGE_SIZE).then(|| 1 << most.ilog2())
}

/// The size in bytes of an arena's next chunk, which is to have room for `wanted` when the arena has `total`
/// already: as much as there is, so that few chunks make a large arena and a small one stays small. At most
/// [`LARGEST_PIECE`], and then perhaps not enough.
pub fn next_chunk(total: u64, wanted: u64) -> u64 {
    let enough = wanted.max(total).clamp(SMALLEST_CHUNK, LARGEST_PIECE);
    enough.checked_next_power_of_two().unwrap_or(LARGEST_PIECE)
}

/// Appends a piece to a list of segments: as a longer last segment where it continues that one.
pub fn append(segments: &mut Vec<Segment>, start: PhysAddr, bytes: u64) {
    match segments.last_mut() {
        Some(last) if last.start.checked_add(last.bytes) == Some(start) => last.bytes += bytes,
        _ => segments.push(Segment { start, bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(mut missing: u64, limit: u64) -> Vec<u64> {
        let mut pieces = Vec::new();
        while let Some(piece) = next_piece(missing, limit) {
            pieces.push(piece / PAGE_SIZE);
            missing -= piece;
        }
        assert_eq!(missing, 0);
        pieces
    }

    #[test]
    fn pieces_are_powers_of_two_that_add_up() {
        assert_eq!(split(7 * PAGE_SIZE, LARGEST_PIECE), [4, 2, 1]);
        assert_eq!(split(2500 * PAGE_SIZE, LARGEST_PIECE), [1024, 1024, 256, 128, 64, 4]);
        assert_eq!(split(7 * PAGE_SIZE, 2 * PAGE_SIZE), [2, 2, 2, 1]);
        assert!(split(0, LARGEST_PIECE).is_empty());
    }

    #[test]
    fn below_one_page_there_is_no_piece() {
        assert_eq!(next_piece(PAGE_SIZE, PAGE_SIZE / 2), None);
        assert_eq!(next_piece(PAGE_SIZE, 0), None);
        assert_eq!(next_piece(u64::MAX, u64::MAX), Some(1 << 63));
    }

    #[test]
    fn an_arena_doubles_until_its_chunks_are_the_largest_there_are() {
        let mut total = 0;
        let mut chunks = Vec::new();
        for _ in 0..8 {
            let chunk = next_chunk(total, PAGE_SIZE);
            chunks.push(chunk / PAGE_SIZE);
            total += chunk;
        }
        assert_eq!(chunks, [64, 64, 128, 256, 512, 1024, 1024, 1024]);
        assert_eq!(next_chunk(0, 300 * PAGE_SIZE), 512 * PAGE_SIZE);
        assert_eq!(next_chunk(u64::MAX, u64::MAX), LARGEST_PIECE);
    }

    #[test]
    fn a_piece_that_continues_the_last_segment_lengthens_it() {
        let mut segments = Vec::new();
        append(&mut segments, PhysAddr::new(0x4000), 0x2000);
        append(&mut segments, PhysAddr::new(0x6000), 0x1000);
        append(&mut segments, PhysAddr::new(0x8000), 0x1000);
        append(&mut segments, PhysAddr::new(0x7000), 0x1000);
        let expected = [(0x4000, 0x3000), (0x8000, 0x1000), (0x7000, 0x1000)]
            .map(|(start, bytes)| Segment { start: PhysAddr::new(start), bytes });
        assert_eq!(segments, expected);
    }
}
