//! Cutting a piece out of physical segments.

use alloc::vec::Vec;

use crate::platform::Segment;

/// Adds to `pieces` the part of `segments` that starts `offset` bytes in and is `bytes` long. `None`, with
/// nothing added, if they are not that long or the part is empty.
pub fn cut(segments: &[Segment], offset: u64, bytes: u64, pieces: &mut Vec<Segment>) -> Option<()> {
    let before = pieces.len();
    let (mut skip, mut rest) = (offset, bytes);
    for segment in segments {
        if skip >= segment.bytes {
            skip -= segment.bytes;
            continue;
        }
        let length = rest.min(segment.bytes - skip);
        if length == 0 {
            break;
        }
        let Some(start) = segment.start.checked_add(skip) else { break };
        pieces.push(Segment { start, bytes: length });
        skip = 0;
        rest -= length;
    }
    if rest == 0 && bytes > 0 {
        Some(())
    } else {
        pieces.truncate(before);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dma_types::PhysAddr;

    const RUN: [Segment; 3] =
        [segment(0x9000, 0x2000), segment(0x4000, 0x1000), segment(0x20000, 0x3000)];

    const fn segment(start: u64, bytes: u64) -> Segment {
        Segment { start: PhysAddr::new(start), bytes }
    }

    fn cut_out(offset: u64, bytes: u64) -> Option<Vec<Segment>> {
        let mut pieces = Vec::new();
        cut(&RUN, offset, bytes, &mut pieces).map(|()| pieces)
    }

    #[test]
    fn a_part_is_cut_out_at_both_ends() {
        let all = cut_out(0x1000, 0x3000).unwrap();
        assert_eq!(
            all,
            [segment(0xa000, 0x1000), segment(0x4000, 0x1000), segment(0x20000, 0x1000)]
        );
        assert_eq!(cut_out(0, 0x6000).unwrap(), RUN);
        assert_eq!(cut_out(0x3000, 0x1000).unwrap(), [segment(0x20000, 0x1000)]);
    }

    #[test]
    fn r5_a_part_beyond_the_end_is_none() {
        for (offset, bytes) in
            [(0, 0x7000), (0x6000, 0x1000), (u64::MAX, 0x1000), (0x1000, u64::MAX), (0, 0)]
        {
            assert_eq!(cut_out(offset, bytes), None, "{offset:#x} {bytes:#x}");
        }
    }
}
