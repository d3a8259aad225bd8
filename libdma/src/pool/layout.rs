//! Where the blocks lie in a chunk.

use crate::protocol::Error;

/// The most bytes in a block.
const LARGEST: usize = 1 << 30;
/// How many blocks a chunk is to have, if that makes a chunk of a usual size.
const BLOCKS: usize = 16;
/// The usual sizes of a chunk, in bytes.
const SMALL_CHUNK: usize = 4096;
const LARGE_CHUNK: usize = 1 << 16;

/// What the blocks of a pool are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// How long a block is.
    pub(super) bytes: usize,
    /// What its address is a multiple of: a power of two.
    pub(super) align: usize,
    /// What it crosses no multiple of: a power of two.
    boundary: usize,
    /// From one block to the next.
    stride: usize,
}

impl Shape {
    /// # Errors
    ///
    /// [`Error::ZeroSize`], [`Error::TooLarge`]; [`Error::BadAlignment`] for an alignment that is no power of two;
    /// [`Error::BadBoundary`] for a boundary that is none, or that a block cannot but cross.
    pub(super) fn new(bytes: usize, align: usize, boundary: Option<usize>) -> Result<Self, Error> {
        if bytes == 0 {
            return Err(Error::ZeroSize);
        }
        if bytes > LARGEST || align > LARGEST {
            return Err(Error::TooLarge);
        }
        let boundary = boundary.unwrap_or(1 << (usize::BITS - 1));
        if !align.is_power_of_two() {
            return Err(Error::BadAlignment);
        }
        if !boundary.is_power_of_two() || boundary < bytes {
            return Err(Error::BadBoundary);
        }
        // A block that is aligned to more than the boundary crosses none either.
        let boundary = boundary.max(align);
        Ok(Self { bytes, align, boundary, stride: bytes.next_multiple_of(align) })
    }

    /// The length of the smallest chunk, which has one block. The length of a chunk is a power of two.
    pub(super) fn least_chunk(self) -> usize {
        self.stride.next_power_of_two()
    }

    /// The length of a chunk where nothing speaks against it.
    pub(super) fn usual_chunk(self) -> usize {
        // For blocks so large that a chunk of them is of no usual size, no more than four: a chunk should not hold much
        // more than what was asked for.
        let large = LARGE_CHUNK.max(self.least_chunk().saturating_mul(4));
        self.least_chunk().saturating_mul(BLOCKS).clamp(SMALL_CHUNK.max(self.least_chunk()), large)
    }

    /// The blocks of a chunk of this length, a power of two, that lies at a multiple of it.
    pub(super) fn in_chunk(self, chunk: usize) -> Layout {
        let segment = self.boundary.min(chunk);
        // The last block of a segment needs its own bytes alone.
        let per_segment = segment.checked_sub(self.bytes).map_or(0, |rest| rest / self.stride + 1);
        let (stride, blocks) = (self.stride, chunk / segment * per_segment);
        Layout { bytes: chunk, stride, segment, per_segment, blocks }
    }
}

/// Where the blocks lie in a chunk. It is made of segments, which end where no block may cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The length of the chunk.
    bytes: usize,
    stride: usize,
    /// The length of a segment: a power of two.
    segment: usize,
    per_segment: usize,
    blocks: usize,
}

impl Layout {
    /// How long the chunk is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// What the chunk's I/O address is a multiple of.
    pub(super) fn chunk_align(&self) -> u64 {
        self.segment as u64
    }

    /// Where the block of this index starts.
    pub(super) fn offset_of(&self, index: usize) -> usize {
        index / self.per_segment * self.segment + index % self.per_segment * self.stride
    }

    /// Which block starts there, if one does.
    pub(super) fn index_of(&self, offset: usize) -> Option<usize> {
        let (segment, inside) = (offset / self.segment, offset & (self.segment - 1));
        let place = inside / self.stride;
        if inside != place * self.stride || place >= self.per_segment {
            return None;
        }
        Some(segment * self.per_segment + place).filter(|&index| index < self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_crosses_no_boundary_and_starts_at_a_multiple_of_its_alignment() {
        for (bytes, align, boundary) in [
            (1, 1, 1),
            (48, 16, 64),
            (100, 4, 256),
            (100, 64, 4096),
            (256, 256, 256),
            (5000, 8, 8192),
        ] {
            let shape = Shape::new(bytes, align, Some(boundary)).unwrap();
            let mut chunk = shape.least_chunk();
            // Miri would look at the larger ones for minutes.
            let largest = if cfg!(miri) { chunk } else { shape.usual_chunk() };
            while chunk <= largest {
                let layout = shape.in_chunk(chunk);
                assert!(layout.blocks() >= 1);
                let mut end = 0;
                for index in 0..layout.blocks() {
                    let offset = layout.offset_of(index);
                    assert!(offset >= end && offset.is_multiple_of(align));
                    end = offset + bytes;
                    assert_eq!(offset / boundary, (end - 1) / boundary);
                    assert_eq!(layout.index_of(offset), Some(index));
                }
                assert!(end <= chunk);
                let found = (0..chunk + 100).filter(|&offset| layout.index_of(offset).is_some());
                assert_eq!(found.count(), layout.blocks(), "nothing else is a block");
                chunk *= 2;
            }
        }
    }

    #[test]
    fn a_shape_that_no_block_can_have_is_an_error() {
        assert_eq!(Shape::new(0, 1, None), Err(Error::ZeroSize));
        assert_eq!(Shape::new(usize::MAX, 1, None), Err(Error::TooLarge));
        assert_eq!(Shape::new(1, 1 << 40, None), Err(Error::TooLarge));
        for align in [0, 24] {
            assert_eq!(Shape::new(64, align, None), Err(Error::BadAlignment));
        }
        for boundary in [0, 96, 32] {
            assert_eq!(Shape::new(64, 1, Some(boundary)), Err(Error::BadBoundary));
        }
    }

    #[test]
    fn chunks_of_small_blocks_are_a_page_and_of_large_ones_no_more_than_four() {
        let chunk = |bytes| Shape::new(bytes, 1, None).unwrap().usual_chunk();
        assert_eq!((chunk(1), chunk(256), chunk(257)), (4096, 4096, 8192));
        assert_eq!((chunk(4096), chunk(40_000), chunk(1 << 20)), (1 << 16, 1 << 18, 1 << 22));
    }
}
