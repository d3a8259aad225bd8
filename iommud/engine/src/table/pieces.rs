//! Physical memory in pieces, taken from the front.

use dma_types::PhysAddr;

use crate::platform::Segment;

/// What is left of some segments. Neighbours that are adjacent in memory count as one.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    start: u64,
    bytes: u64,
    rest: &'a [Segment],
}

impl<'a> Pieces<'a> {
    /// All of these segments.
    pub fn new(segments: &'a [Segment]) -> Self {
        let mut pieces = Self { start: 0, bytes: 0, rest: segments };
        pieces.refill();
        pieces
    }

    /// Where the first piece starts, and how long it is: zero when nothing is left.
    #[inline]
    pub fn first(&self) -> (u64, u64) {
        (self.start, self.bytes)
    }

    /// Takes `bytes` from the front, no more than the first piece has.
    #[inline]
    pub fn take(&mut self, bytes: u64) {
        self.start += bytes;
        self.bytes -= bytes;
        if self.bytes == 0 {
            self.refill();
        }
    }

    fn refill(&mut self) {
        while let Some((next, rest)) = self.rest.split_first() {
            let adjacent = PhysAddr::new(self.start).checked_add(self.bytes) == Some(next.start);
            if self.bytes > 0 && !adjacent {
                return;
            }
            if self.bytes == 0 {
                self.start = next.start.get();
            }
            self.bytes += next.bytes;
            self.rest = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_segments_are_one_piece() {
        let segment = |start, bytes| Segment { start: PhysAddr::new(start), bytes };
        let segments = [segment(0x1000, 0x1000), segment(0x2000, 0x3000), segment(0x9000, 0x1000)];
        let mut pieces = Pieces::new(&segments);
        assert_eq!(pieces.first(), (0x1000, 0x4000));
        pieces.take(0x1000);
        assert_eq!(pieces.first(), (0x2000, 0x3000));
        pieces.take(0x3000);
        assert_eq!(pieces.first(), (0x9000, 0x1000));
        pieces.take(0x1000);
        assert_eq!(pieces.first().1, 0);
        assert_eq!(Pieces::new(&[]).first().1, 0);
    }
}
