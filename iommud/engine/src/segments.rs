//! Cutting pieces out of physical segments.

use alloc::vec::Vec;

use dma_types::PhysAddr;

use crate::platform::{RunId, Segment};

/// In which segment of a run a part began: the next part of the same run begins there or behind it most often. Of runs of many
/// segments the others would be counted off for each part.
#[derive(Clone, Copy, Debug)]
pub struct Near {
    run: RunId,
    /// The number of the segment.
    index: usize,
    /// How many bytes in it starts.
    start: u64,
}

impl Default for Near {
    fn default() -> Self {
        // Any run starts there.
        Self { run: RunId(0), index: 0, start: 0 }
    }
}

/// Adds to `pieces` the part of `segments` that starts `offset` bytes in and is `bytes` long. `None`, with nothing
/// added, if they are not that long or the part is empty.
pub fn cut(segments: &[Segment], offset: u64, bytes: u64, pieces: &mut Vec<Segment>) -> Option<()> {
    cut_near((RunId(0), segments), (offset, bytes), &mut Near::default(), pieces)
}

/// The same of a run's segments, with a hint.
#[inline]
pub fn cut_near(
    (run, segments): (RunId, &[Segment]),
    (offset, bytes): (u64, u64),
    near: &mut Near,
    pieces: &mut Vec<Segment>,
) -> Option<()> {
    match in_first(segments, offset, bytes) {
        Some(piece) => pieces.push(piece),
        None => return cut_several((run, segments), (offset, bytes), near, pieces),
    }
    Some(())
}

/// The part of `segments` that starts `offset` bytes in and is `bytes` long, if it is not empty and all in the first.
#[inline]
pub fn in_first(segments: &[Segment], offset: u64, bytes: u64) -> Option<Segment> {
    let (first, _) = segments.split_first()?;
    let room = first.bytes.checked_sub(offset)?;
    let start = first.start.checked_add(offset)?;
    (1..=room).contains(&bytes).then_some(Segment { start, bytes })
}

#[inline(never)]
fn cut_several(
    (run, segments): (RunId, &[Segment]),
    (offset, bytes): (u64, u64),
    near: &mut Near,
    pieces: &mut Vec<Segment>,
) -> Option<()> {
    let is_behind = near.run == run && near.start <= offset;
    let Near { mut index, mut start, .. } = if is_behind { *near } else { Near::default() };
    while let Some(segment) = segments.get(index)
        && offset - start >= segment.bytes
    {
        (index, start) = (index + 1, start + segment.bytes);
    }
    let rest = segments.get(index..)?;
    let skip = offset - start;
    let end = skip.checked_add(bytes).filter(|_| bytes > 0)?;
    let mut length = 0;
    let count = rest.iter().take_while(|segment| {
        let is_part = length < end;
        length += if is_part { segment.bytes } else { 0 };
        is_part
    });
    let count = count.count();
    if length < end {
        return None;
    }
    let first = rest.first()?.start.checked_add(skip)?;
    let before = pieces.len();
    pieces.extend_from_slice(&rest[..count]);
    let part = &mut pieces[before..];
    part[count - 1].bytes -= length - end;
    part[0] = Segment { start: first, bytes: part[0].bytes - skip };
    *near = Near { run, index, start };
    Some(())
}

/// The first of these segments that are so long together, and the others.
#[inline]
pub fn split_at_bytes(segments: &[Segment], bytes: u64) -> (&[Segment], &[Segment]) {
    if segments.first().is_some_and(|first| first.bytes == bytes) {
        return segments.split_at(1);
    }
    let mut left = bytes;
    let count = segments.iter().take_while(|segment| {
        let is_in = left > 0;
        left = left.saturating_sub(segment.bytes);
        is_in
    });
    segments.split_at(count.count())
}

/// All of `segments` as one piece, if each starts where the one before ends: its start and its length.
pub fn as_one(segments: &[Segment]) -> Option<(PhysAddr, u64)> {
    let (first, rest) = segments.split_first()?;
    let mut bytes = first.bytes;
    for segment in rest {
        if first.start.checked_add(bytes) != Some(segment.start) {
            return None;
        }
        bytes = bytes.checked_add(segment.bytes)?;
    }
    (bytes > 0).then_some((first.start, bytes))
}

/// What is left of `segments` without `holes`, in the order of `segments`, each piece a part of one of them.
/// Neither must be in order, and both may overlap.
pub fn without(segments: &[Segment], holes: &[Segment]) -> Vec<Segment> {
    let mut sorted: Vec<(u64, u64)> = holes.iter().filter_map(ends).collect();
    sorted.sort_unstable();
    // None reaches into the next, so that their ends are in order, too.
    let mut holes: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
    for (from, to) in sorted {
        match holes.last_mut() {
            Some(before) if from <= before.1 => before.1 = before.1.max(to),
            _ => holes.push((from, to)),
        }
    }
    let mut left = Vec::new();
    for (first, last) in segments.iter().filter_map(ends) {
        // The first address that is not known to be in a hole, until there is none.
        let mut next = Some(first);
        let reached = holes.partition_point(|(_, to)| *to < first);
        for &(from, to) in holes.iter().skip(reached) {
            let Some(start) = next.filter(|start| *start <= last && from <= last) else { break };
            if from > start {
                left.push(between(start, from - 1));
            }
            next = to.checked_add(1);
        }
        left.extend(next.filter(|start| *start <= last).map(|start| between(start, last)));
    }
    left
}

/// What of `segments` is in `others`, too, each piece a part of one of `segments`.
pub fn common(segments: &[Segment], others: &[Segment]) -> Vec<Segment> {
    without(segments, &without(segments, others))
}

/// Whether some of these have an address in common with some of those.
pub fn overlap(these: &[Segment], those: &[Segment]) -> bool {
    let those = |first, last| those.iter().filter_map(ends).any(|it| first <= it.1 && it.0 <= last);
    these.iter().filter_map(ends).any(|(first, last)| those(first, last))
}

/// A segment's first and last address; `None` if it is empty. One that goes round the end stops there.
fn ends(segment: &Segment) -> Option<(u64, u64)> {
    let start = segment.start.get();
    Some((start, start.saturating_add(segment.bytes.checked_sub(1)?)))
}

fn between(first: u64, last: u64) -> Segment {
    Segment { start: PhysAddr::new(first), bytes: last - first + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn the_same_part_is_cut_out_whatever_was_before() {
        let other = [segment(0x1000, 0x1000), segment(0x8000, 0x1000), segment(0x3000, 0x6000)];
        let parts = (0..6).flat_map(|first| (1..=6 - first).map(move |pages| (first, pages)));
        let parts: Vec<_> = parts.map(|(at, pages)| (at * 0x1000, pages * 0x1000)).collect();
        let mut near = Near::default();
        for (before, after) in parts.iter().flat_map(|one| parts.iter().map(move |it| (one, it))) {
            for (run, segments, part) in
                [(1, &RUN, before), (1, &RUN, after), (2, &other, after), (2, &other, before)]
            {
                let (mut pieces, mut expected) = (Vec::from([RUN[0]]), Vec::from([RUN[0]]));
                cut_near((RunId(run), segments), *part, &mut near, &mut pieces).unwrap();
                cut(segments, part.0, part.1, &mut expected).unwrap();
                assert_eq!(pieces, expected, "{before:?}, {after:?} of {run}");
            }
            assert_eq!(
                cut_near((RunId(1), &RUN), (0x5000, 0x2000), &mut near, &mut Vec::new()),
                None
            );
        }
    }

    #[test]
    fn r5_a_part_beyond_the_end_is_none() {
        for (offset, bytes) in
            [(0, 0x7000), (0x6000, 0x1000), (u64::MAX, 0x1000), (0x1000, u64::MAX), (0, 0)]
        {
            assert_eq!(cut_out(offset, bytes), None, "{offset:#x} {bytes:#x}");
        }
    }

    #[test]
    fn holes_are_left_out_wherever_they_lie() {
        let all = [segment(0x1000, 0x9000), segment(0x20000, 0x2000)];
        assert_eq!(without(&all, &[]), all);
        let holes = [segment(0x21000, 0x8000), segment(0, 0x2000), segment(0x4000, 0x1000)];
        assert_eq!(
            without(&all, &holes),
            [segment(0x2000, 0x2000), segment(0x5000, 0x5000), segment(0x20000, 0x1000)]
        );
        assert_eq!(without(&all, &[segment(0, u64::MAX)]), []);
        assert_eq!(without(&all, &[segment(0x3000, 0)]), all);
    }

    #[test]
    fn neighbours_do_not_overlap_and_what_reaches_in_does() {
        let one = [segment(0x8000, 0), segment(0x2000, 0x1000)];
        for (start, bytes, expected) in [
            (0x1000, 0x1000, false),
            (0x3000, 0x1000, false),
            (0x2800, 0, false),
            (0x1000, 0x1001, true),
            (0x2fff, 1, true),
            (0, u64::MAX, true),
        ] {
            let other = [segment(0x9000, 0x1000), segment(start, bytes)];
            assert_eq!(overlap(&one, &other), expected, "{start:#x} {bytes:#x}");
            assert_eq!(overlap(&other, &one), expected, "{start:#x} {bytes:#x}");
            assert_eq!(common(&one, &other).is_empty(), !expected, "{start:#x} {bytes:#x}");
        }
    }

    proptest! {
        #[test]
        fn r8_what_is_left_is_what_is_in_no_hole(
            segments in prop::collection::vec((0u64..40, 0u64..20), 0..5),
            holes in prop::collection::vec((0u64..60, 0u64..20), 0..6),
        ) {
            let list = |of: &[(u64, u64)]| -> Vec<Segment> {
                of.iter().map(|&(start, bytes)| segment(start, bytes)).collect()
            };
            let left = without(&list(&segments), &list(&holes));
            let shared = common(&list(&segments), &list(&holes));
            let count = |of: &[Segment], at: u64| {
                of.iter().filter(|it| it.start.get() <= at && at - it.start.get() < it.bytes).count()
            };
            for at in 0..100 {
                let expected = if count(&list(&holes), at) > 0 { 0 } else { count(&list(&segments), at) };
                prop_assert_eq!(count(&left, at), expected, "{}", at);
                let both = count(&list(&segments), at) - expected;
                prop_assert_eq!(count(&shared, at), both, "{}", at);
            }
            prop_assert!(left.iter().all(|piece| piece.bytes > 0));
        }
    }
}
