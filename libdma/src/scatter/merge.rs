//! As few segments as the device's limits allow.

use alloc::vec::Vec;

use dma_types::Iova;

use crate::limits::Limits;

/// One piece of memory as the device sees it: Linux's `sg_dma_address` and `sg_dma_len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub iova: Iova,
    /// How long it is.
    pub bytes: u64,
}

/// Segments that are made piece by piece, as few as the limits allow.
///
/// Of what lies in one piece each segment takes as much as it may. No other way takes fewer: whatever ends sooner leaves
/// more to those after it.
#[derive(Default)]
pub(super) struct Merged {
    pub(super) segments: Vec<Segment>,
    /// How many bytes more the last of them may have.
    room: u64,
}

impl Merged {
    /// Forgets all of them.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.segments.clear();
        self.room = 0;
    }

    /// Puts memory behind what the segments lead to so far: into the last of them, if it lies directly behind that, and into as
    /// many new ones as it takes.
    #[inline]
    pub(super) fn append(&mut self, limits: &Limits, iova: Iova, bytes: u64) {
        match self.segments.last_mut() {
            Some(last) if bytes <= self.room && last.end() == Some(iova) => {
                last.bytes += bytes;
                self.room -= bytes;
            }
            _ => self.append_otherwise(limits, iova, bytes),
        }
    }

    /// The same where it does not all go into the last.
    fn append_otherwise(&mut self, limits: &Limits, mut iova: Iova, mut bytes: u64) {
        if let Some(last) = self.segments.last_mut()
            && last.end() == Some(iova)
        {
            let taken = self.room.min(bytes);
            last.bytes += taken;
            bytes -= taken;
            iova = Iova::new(iova.get().wrapping_add(taken));
        }
        while bytes > 0 {
            // Limits leave room for a byte at least.
            let room = room(limits, iova).max(1);
            let taken = room.min(bytes);
            self.segments.push(Segment { iova, bytes: taken });
            self.room = room - taken;
            bytes -= taken;
            iova = Iova::new(iova.get().wrapping_add(taken));
        }
    }
}

impl Segment {
    /// The first address behind it, if there is one.
    #[inline]
    fn end(&self) -> Option<Iova> {
        self.iova.checked_add(self.bytes)
    }
}

/// How many bytes a segment may have that starts here.
fn room(limits: &Limits, iova: Iova) -> u64 {
    let (boundary, most) = (limits.segment_boundary(), limits.max_segment_bytes());
    if boundary == u64::MAX { most } else { most.min(boundary - (iova.get() & (boundary - 1))) }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn merged(limits: Limits, pieces: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut merged = Merged::default();
        for (iova, bytes) in pieces {
            merged.append(&limits, Iova::new(*iova), *bytes);
        }
        merged.segments.iter().map(|it| (it.iova.get(), it.bytes)).collect()
    }

    #[test]
    fn what_lies_side_by_side_is_one_segment() {
        let pieces = [(0x1000, 0x1000), (0x2000, 5), (0x2005, 0xffb), (0x4000, 1), (0x3fff, 1)];
        assert_eq!(merged(Limits::NONE, &pieces), [(0x1000, 0x2000), (0x4000, 1), (0x3fff, 1)]);
        assert_eq!(merged(Limits::NONE, &[(7, 0), (9, 0)]), vec![]);
    }

    #[test]
    fn no_segment_is_too_long_or_crosses_a_boundary() {
        let limits = Limits::NONE.max_segment(3000);
        let pieces = [(0, 1000), (1000, 7000)];
        assert_eq!(merged(limits, &pieces), [(0, 3000), (3000, 3000), (6000, 2000)]);
        let limits = Limits::NONE.boundary(4096);
        let pieces = [(4000, 96), (4096, 4097)];
        assert_eq!(merged(limits, &pieces), [(4000, 96), (4096, 4096), (8192, 1)]);
        let limits = limits.max_segment(3000);
        assert_eq!(merged(limits, &[(4000, 4096)]), [(4000, 96), (4096, 3000), (7096, 1000)]);
    }

    #[test]
    fn the_end_of_the_address_space_is_no_way_round() {
        let end = u64::MAX - 1;
        assert_eq!(merged(Limits::NONE, &[(end, 2), (0, 1)]), [(end, 2), (0, 1)]);
        let (limits, page) = (Limits::NONE.boundary(4096), u64::MAX - 4095);
        assert_eq!(merged(limits, &[(page, 4096), (0, 1)]), [(page, 4096), (0, 1)]);
    }

    /// The fewest segments that lead to these bytes in this order, found by trying every end of every segment.
    fn fewest(limits: Limits, bytes: &[u64]) -> usize {
        let fits = |piece: &[u64]| {
            let (first, last) = (piece[0], piece[piece.len() - 1]);
            piece.windows(2).all(|it| it[0] + 1 == it[1])
                && piece.len() as u64 <= limits.max_segment_bytes()
                && first / limits.segment_boundary() == last / limits.segment_boundary()
        };
        let mut fewest = vec![0; bytes.len() + 1];
        for end in 1..=bytes.len() {
            let starts = (0..end).filter(|start| fits(&bytes[*start..end]));
            fewest[end] = starts.map(|start| fewest[start] + 1).min().unwrap();
        }
        fewest[bytes.len()]
    }

    fn bytes_of(pieces: &[(u64, u64)]) -> Vec<u64> {
        pieces.iter().flat_map(|(start, bytes)| *start..start + bytes).collect()
    }

    fn config() -> ProptestConfig {
        let cases = if cfg!(miri) { 4 } else { 256 };
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
    }

    proptest! {
        #![proptest_config(config())]
        #[test]
        fn segments_are_the_same_bytes_within_the_limits_and_no_way_takes_fewer(
            max in 1..40_u64,
            boundary in prop_oneof![Just(4096), Just(8192), Just(1 << 62)],
            steps in prop::collection::vec((prop_oneof![Just(None), (0..3_u64).prop_map(Some)], 1..25_u64), 1..8),
        ) {
            let limits = Limits::NONE.max_segment(max).boundary(boundary);
            // Each piece lies behind the one before, or shortly before the end of a page.
            let mut at = 4096 - 20;
            let mut pieces = Vec::new();
            for (page, bytes) in steps {
                at = page.map_or(at, |page| (page + 1) * 4096 - 10);
                pieces.push((at, bytes));
                at += bytes;
            }
            let segments = merged(limits, &pieces);
            prop_assert_eq!(bytes_of(&segments), bytes_of(&pieces));
            for (start, bytes) in &segments {
                prop_assert!(*bytes <= max && start / boundary == (start + bytes - 1) / boundary);
            }
            prop_assert_eq!(segments.len(), fewest(limits, &bytes_of(&pieces)));
        }
    }
}
