//! Memory that is set aside at the start, to be had in large physical pieces when it is needed: Linux's CMA.
//!
//! A reserve is for all devices or for one. It is made of runs of the platform's, and gives
//! out parts of their physical pieces, each a run as any other. This is the book of what is free; the platform makes
//! the parts ([`BufferRuns::part_run`](crate::platform::BufferRuns::part_run)).
//!
//! A part that a client has seen is never given out again (rule R8): the daemon does not hear of all that may have it mapped
//! still, of what a daemon before this one gave out nothing at all. When it ends it is *retired*, and
//! its record stays, by which a successor knows it. The run that it is of goes back to the platform, which gives a frame to
//! nobody before the last of its mappings is gone, when nothing else of it is in use; and another is taken in its place.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use dma_types::{PAGE_SIZE, PciAddress, PhysAddr};

use crate::ledger::Slot;
use crate::platform::{RunId, Segment};

/// The most that a part's start is a multiple of: with more, the neighbours of large parts would be lost.
const MOST_ALIGNMENT: u64 = 4 << 20;

/// Some of the memory of a run that is in one physical piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The run.
    pub whole: RunId,
    /// Where in it.
    pub offset: u64,
    /// Where in physical memory.
    pub start: PhysAddr,
    /// How much.
    pub bytes: u64,
}

/// Memory that is set aside.
#[derive(Debug)]
pub struct Reserve {
    owner: Option<PciAddress>,
    wanted: u64,
    /// Its runs.
    wholes: BTreeMap<RunId, Whole>,
    /// By run and offset, and nowhere two that could be one.
    free: Vec<Place>,
    /// What was given out, by the runs that were made of it.
    taken: BTreeMap<RunId, (Place, Part)>,
}

/// A run that a reserve is made of.
#[derive(Clone, Copy, Debug)]
struct Whole {
    bytes: u64,
    /// The longest piece that it ever gives.
    longest: u64,
    record: Option<Slot>,
    /// Whether a daemon before this one had begun to give it back.
    is_going: bool,
}

/// What has become of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Somebody has it.
    InUse,
    /// Nobody has it any more, and who had may have it mapped. This is its record.
    Retired(Option<Slot>),
}

/// A run that is not in a reserve any more, to be given back.
#[derive(Debug)]
pub struct Removed {
    /// Its length.
    pub bytes: u64,
    /// Its record.
    pub record: Option<Slot>,
    /// The parts of it that were retired, with their records.
    pub parts: Vec<(RunId, Option<Slot>)>,
}

impl Reserve {
    /// A reserve without memory that is to have as much as this, for one device or for all.
    pub const fn new(owner: Option<PciAddress>, wanted: u64) -> Self {
        let wholes = BTreeMap::new();
        Self { owner, wanted, wholes, free: Vec::new(), taken: BTreeMap::new() }
    }

    /// The device that it is for; `None`: all.
    pub const fn owner(&self) -> Option<PciAddress> {
        self.owner
    }

    /// Whether it is for this device, among others or alone.
    pub fn is_for(&self, device: PciAddress) -> bool {
        self.owner.is_none_or(|owner| owner == device)
    }

    /// How much it should have, in bytes.
    pub const fn wanted(&self) -> u64 {
        self.wanted
    }

    /// How much it has, in bytes, given out or not.
    pub fn bytes(&self) -> u64 {
        self.wholes.values().map(|whole| whole.bytes).sum()
    }

    /// How much is given out, in bytes.
    pub fn used(&self) -> u64 {
        self.taken.values().map(|(place, _)| place.bytes).sum::<u64>() - self.retired()
    }

    /// How much is retired, in bytes.
    pub fn retired(&self) -> u64 {
        let retired = self.taken.values().filter(|(_, part)| matches!(part, Part::Retired(_)));
        retired.map(|(place, _)| place.bytes).sum()
    }

    /// The pieces that are free.
    pub fn pieces(&self) -> impl Iterator<Item = &Place> {
        self.free.iter()
    }

    /// The largest piece that is free, in bytes.
    pub fn largest(&self) -> u64 {
        self.pieces().map(|place| place.bytes).max().unwrap_or_default()
    }

    /// The longest piece that it ever gives, in bytes: when nothing is given out.
    pub fn longest(&self) -> u64 {
        self.wholes.values().map(|whole| whole.longest).max().unwrap_or_default()
    }

    /// Adds all of a run of these pieces, of which there is this record. Nothing is given out yet.
    pub fn add(&mut self, whole: RunId, segments: &[Segment], record: Option<Slot>) {
        let mut offset = 0;
        for &Segment { start, bytes } in segments {
            self.put_back(Place { whole, offset, start, bytes });
            offset += bytes;
        }
        let pieces = self.free.iter().filter(|free| free.whole == whole);
        let longest = pieces.map(Place::longest).max().unwrap_or_default();
        let added = Whole { bytes: offset, longest, record, is_going: false };
        self.wholes.insert(whole, added);
    }

    /// Gives out nothing of a run: a daemon before this one had begun to give it back.
    pub fn withhold(&mut self, whole: RunId) {
        self.free.retain(|free| free.whole != whole);
        if let Some(whole) = self.wholes.get_mut(&whole) {
            (whole.is_going, whole.longest) = (true, 0);
        }
    }

    /// A free place for this many bytes in one piece, none of which is above `limit`: at a multiple of its length
    /// rounded up to a power of two, or of 4 MiB if that is less; and of `align`, a power of two. Of all pieces with room
    /// it is in the smallest.
    pub fn find(&self, bytes: u64, align: u64, limit: PhysAddr) -> Option<Place> {
        let align = bytes.checked_next_power_of_two()?.min(MOST_ALIGNMENT).max(align);
        let skipped = |free: &Place| {
            let start = free.start.get().checked_next_multiple_of(align)?;
            let skipped = start - free.start.get();
            let end = skipped.checked_add(bytes)?;
            let last = start.checked_add(bytes.checked_sub(1)?)?;
            (end <= free.bytes && last <= limit.get()).then_some(skipped)
        };
        let fitting = self.free.iter().filter_map(|free| Some((free, skipped(free)?)));
        let (free, skipped) = fitting.min_by_key(|(free, _)| free.bytes)?;
        let start = PhysAddr::new(free.start.get() + skipped);
        Some(Place { offset: free.offset + skipped, start, bytes, ..*free })
    }

    /// Gives a place out that was [found](Self::find), as this run.
    pub fn take(&mut self, place: Place, part: RunId) {
        if self.carve(place) {
            self.taken.insert(part, (place, Part::InUse));
        }
    }

    /// A daemon before this one gave a place out, as this run.
    pub fn inherit(&mut self, place: Place, part: RunId) {
        let is_going = self.wholes.get(&place.whole).is_some_and(|whole| whole.is_going);
        if is_going || self.carve(place) {
            self.taken.insert(part, (place, Part::InUse));
        }
    }

    /// Takes a place out of what is free. `false` if it is not.
    fn carve(&mut self, place: Place) -> bool {
        let end = place.offset + place.bytes;
        let holds = |free: &Place| {
            free.whole == place.whole
                && free.offset <= place.offset
                && end <= free.offset + free.bytes
        };
        let Some(at) = self.free.iter().position(holds) else { return false };
        let free = self.free.remove(at);
        let before = place.offset - free.offset;
        let after = free.offset + free.bytes - end;
        if before > 0 {
            self.put_back(Place { bytes: before, ..free });
        }
        if after > 0 {
            let start = PhysAddr::new(place.start.get() + place.bytes);
            self.put_back(Place { offset: end, start, bytes: after, ..free });
        }
        true
    }

    /// Takes back what was given out as this run and seen by nobody. `false` if nothing of this reserve was.
    pub fn give_back(&mut self, part: RunId) -> bool {
        let Some((place, _)) = self.taken.remove(&part) else { return false };
        self.put_back(place);
        true
    }

    /// Retires what was given out as this run, of which there is this record. `false` if nothing of this reserve was, or it is
    /// retired.
    pub fn retire(&mut self, part: RunId, record: Option<Slot>) -> bool {
        match self.taken.get_mut(&part) {
            Some((_, state @ Part::InUse)) => {
                *state = Part::Retired(record);
                true
            }
            _ => false,
        }
    }

    /// A run with something in it that is not given out any more, of which nothing is in use.
    pub fn idle(&self) -> Option<RunId> {
        let mut wholes = self.wholes.iter().map(|(id, whole)| (*id, whole.is_going));
        let idle = wholes.find(|(id, is_going)| {
            let mut of_it = self.taken.values().filter(|(place, _)| place.whole == *id).peekable();
            (*is_going || of_it.peek().is_some())
                && of_it.all(|(_, part)| matches!(part, Part::Retired(_)))
        });
        idle.map(|(id, _)| id)
    }

    /// The record of a run.
    pub fn record(&self, whole: RunId) -> Option<Slot> {
        self.wholes.get(&whole)?.record
    }

    /// Takes a run that is [idle](Self::idle) out of the reserve.
    pub fn remove(&mut self, whole: RunId) -> Option<Removed> {
        let Whole { bytes, record, .. } = self.wholes.remove(&whole)?;
        self.free.retain(|free| free.whole != whole);
        let mut parts = Vec::new();
        self.taken.retain(|part, (place, state)| {
            if place.whole == whole
                && let Part::Retired(record) = state
            {
                parts.push((*part, *record));
            }
            place.whole != whole
        });
        Some(Removed { bytes, record, parts })
    }

    /// Adds a place to those that are free, as one with its neighbours where they continue each other.
    fn put_back(&mut self, mut place: Place) {
        let key = |place: &Place| (place.whole, place.offset);
        let mut at = self.free.partition_point(|free| key(free) < key(&place));
        if let Some(next) = self.free.get(at).filter(|next| place.continues_as(next)) {
            place.bytes += next.bytes;
            self.free.remove(at);
        }
        if let Some(before) = at.checked_sub(1).and_then(|before| self.free.get(before))
            && before.continues_as(&place)
        {
            place = Place { bytes: before.bytes + place.bytes, ..*before };
            at -= 1;
            self.free.remove(at);
        }
        self.free.insert(at, place);
    }
}

impl Place {
    /// The longest part that it has room for, at a multiple of what a part is aligned to.
    fn longest(&self) -> u64 {
        let end = self.start.get().saturating_add(self.bytes);
        let mut align = MOST_ALIGNMENT;
        loop {
            let start = self.start.get().checked_next_multiple_of(align);
            let room = start.map_or(0, |start| end.saturating_sub(start));
            // What is longer than a smaller alignment is aligned to more.
            let room = if align < MOST_ALIGNMENT { room.min(align) } else { room };
            if room > align / 2 || align <= PAGE_SIZE {
                return room;
            }
            align /= 2;
        }
    }

    /// Whether another begins where this ends, in the run and in physical memory.
    fn continues_as(&self, next: &Self) -> bool {
        self.whole == next.whole
            && self.offset + self.bytes == next.offset
            && self.start.checked_add(self.bytes) == Some(next.start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = 0x1000;
    const ANYWHERE: PhysAddr = PhysAddr::new(u64::MAX);

    fn reserve(pieces: &[(u64, u64)]) -> Reserve {
        let mut reserve = Reserve::new(None, 0);
        let segment = |&(start, bytes): &(u64, u64)| Segment { start: PhysAddr::new(start), bytes };
        reserve.add(RunId(1), &pieces.iter().map(segment).collect::<Vec<_>>(), None);
        reserve
    }

    #[test]
    fn a_part_is_aligned_and_in_the_smallest_piece_with_room() {
        let mut reserve = reserve(&[(0x10_1000, 32 * PAGE), (0x80_0000, 8 * PAGE)]);
        let small = reserve.find(3 * PAGE, PAGE, ANYWHERE).unwrap();
        assert_eq!((small.start.get(), small.offset), (0x80_0000, 32 * PAGE));
        reserve.take(small, RunId(10));
        // The rest of the small piece is not aligned for five pages.
        let next = reserve.find(5 * PAGE, PAGE, ANYWHERE).unwrap();
        assert_eq!((next.start.get(), next.offset), (0x10_8000, 7 * PAGE));
        assert_eq!(reserve.find(33 * PAGE, PAGE, ANYWHERE), None);
        assert_eq!(reserve.find(0, PAGE, ANYWHERE), None);
        assert_eq!(reserve.find(u64::MAX, PAGE, ANYWHERE), None);
    }

    #[test]
    fn a_part_is_aligned_to_more_than_its_length_if_that_is_asked_for() {
        let reserve = reserve(&[(0x10_1000, 32 * PAGE), (0x80_0000, 64 * PAGE)]);
        let find = |align| reserve.find(PAGE, align, ANYWHERE).map(|it| it.start.get());
        assert_eq!(find(PAGE), Some(0x10_1000));
        assert_eq!(find(16 * PAGE), Some(0x11_0000));
        assert_eq!(find(0x80_0000), Some(0x80_0000));
        assert_eq!(find(0x100_0000), None);
    }

    #[test]
    fn the_longest_part_is_told_whatever_is_given_out() {
        let long = MOST_ALIGNMENT;
        for (start, bytes, longest) in [
            (0x10_1000, PAGE, PAGE),
            (0x10_1000, 32 * PAGE, 16 * PAGE),
            (0x10_0000, 31 * PAGE, 31 * PAGE),
            (0x10_f000, 3 * PAGE, 2 * PAGE),
            (long, 3 * long - PAGE, 3 * long - PAGE),
            (long / 2, 2 * long, 3 * long / 2),
            (long / 2, long / 2, long / 2),
            (long - PAGE, 2 * PAGE, PAGE),
        ] {
            let mut reserve = reserve(&[(start, bytes)]);
            assert_eq!(reserve.longest(), longest, "{bytes:#x} at {start:#x}");
            assert_eq!(reserve.find(longest + PAGE, PAGE, ANYWHERE), None);
            let place = reserve.find(longest, PAGE, ANYWHERE).unwrap();
            reserve.take(place, RunId(10));
            assert_eq!(reserve.longest(), longest);
        }
    }

    #[test]
    fn no_byte_of_a_part_is_above_the_limit() {
        let reserve = reserve(&[(0x1_0000_0000, 16 * PAGE), (0x1000_0000, 64 * PAGE)]);
        let find =
            |limit| reserve.find(8 * PAGE, PAGE, PhysAddr::new(limit)).map(|it| it.start.get());
        assert_eq!(find(u64::MAX), Some(0x1_0000_0000));
        assert_eq!(find(0xffff_ffff), Some(0x1000_0000));
        assert_eq!(find(0x1000_7fff), Some(0x1000_0000));
        assert_eq!(find(0x1000_7ffe), None);
    }

    #[test]
    fn what_is_given_back_is_one_piece_again_also_where_pieces_happen_to_be_adjacent() {
        let mut reserve = reserve(&[(0x40_0000, 0x40_0000), (0x80_0000, 0x40_0000)]);
        assert_eq!(reserve.largest(), 0x80_0000);
        let parts: Vec<_> = (0..8)
            .map(|part| {
                let place = reserve.find(0x10_0000, PAGE, ANYWHERE).unwrap();
                reserve.take(place, RunId(part));
                place
            })
            .collect();
        assert_eq!((reserve.used(), reserve.bytes(), reserve.largest()), (8 << 20, 8 << 20, 0));
        assert!(parts.windows(2).all(|pair| pair[0].start != pair[1].start));
        for part in [3, 0, 7, 1, 2, 6, 4, 5] {
            assert!(reserve.give_back(RunId(part)));
            assert!(!reserve.give_back(RunId(part)), "nothing comes back twice");
        }
        assert_eq!((reserve.used(), reserve.largest()), (0, 0x80_0000));
    }

    #[test]
    fn r8_what_was_given_out_before_is_not_again_and_its_run_goes_when_nothing_of_it_is_in_use() {
        let mut reserve = reserve(&[(0x40_0000, 8 * PAGE)]);
        let other = Segment { start: PhysAddr::new(0x80_0000), bytes: 2 * PAGE };
        reserve.add(RunId(2), &[other], None);
        let place = reserve.find(4 * PAGE, PAGE, ANYWHERE).unwrap();
        reserve.inherit(place, RunId(10));
        let known = reserve.find(2 * PAGE, 4 * PAGE, PhysAddr::new(0x7f_ffff)).unwrap();
        reserve.take(known, RunId(11));
        assert_eq!((known.whole, reserve.idle()), (RunId(1), None));
        assert!(reserve.retire(RunId(10), None) && !reserve.retire(RunId(10), None));
        assert!(!reserve.retire(RunId(12), None));
        assert_eq!((reserve.used(), reserve.retired()), (2 * PAGE, 4 * PAGE));
        assert_eq!((reserve.find(4 * PAGE, PAGE, ANYWHERE), reserve.idle()), (None, None));
        assert!(reserve.retire(RunId(11), None));
        assert_eq!((reserve.idle(), reserve.largest()), (Some(RunId(1)), 2 * PAGE));
        assert_eq!((reserve.used(), reserve.retired()), (0, 6 * PAGE));
        let removed = reserve.remove(RunId(1)).unwrap();
        let parts = [RunId(10), RunId(11)].map(|part| (part, None));
        assert_eq!((removed.bytes, &removed.parts[..]), (8 * PAGE, &parts[..]));
        assert_eq!(
            (reserve.bytes(), reserve.retired(), reserve.largest()),
            (2 * PAGE, 0, 2 * PAGE)
        );
        assert_eq!((reserve.longest(), reserve.idle()), (2 * PAGE, None));
        // One that was about to go gives nothing out, whatever is known of it.
        reserve.withhold(RunId(2));
        assert_eq!((reserve.largest(), reserve.idle()), (0, Some(RunId(2))));
        reserve.inherit(
            Place { whole: RunId(2), offset: 0, start: other.start, bytes: PAGE },
            RunId(12),
        );
        assert_eq!(reserve.idle(), None);
        assert!(reserve.retire(RunId(12), None));
        assert_eq!(reserve.idle(), Some(RunId(2)));
    }

    proptest! {
        #[test]
        fn r8_no_two_parts_ever_share_a_page(
            steps in prop::collection::vec((any::<bool>(), 1u64..40, 0usize..20), 1..80),
        ) {
            let pieces = [(0x10_3000, 50 * PAGE), (0x40_0000, 64 * PAGE), (0x44_0000, 10 * PAGE)];
            let mut reserve = reserve(&pieces);
            let mut held: Vec<(RunId, Place)> = Vec::new();
            for (number, (take, pages, which)) in steps.into_iter().enumerate() {
                if take {
                    if let Some(place) = reserve.find(pages * PAGE, PAGE, ANYWHERE) {
                        let part = RunId(100 + number as u64);
                        reserve.take(place, part);
                        held.push((part, place));
                    }
                } else if which < held.len() {
                    prop_assert!(reserve.give_back(held.swap_remove(which).0));
                }
                let mut ends: Vec<_> = held
                    .iter()
                    .map(|(_, place)| (place.start.get(), place.start.get() + place.bytes))
                    .collect();
                ends.sort_unstable();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0));
                let inside = |&(start, end): &(u64, u64)| {
                    pieces.iter().any(|(first, bytes)| *first <= start && end <= first + bytes)
                        || 0x40_0000 <= start && end <= 0x44_0000 + 10 * PAGE
                };
                prop_assert!(ends.iter().all(inside));
            }
            for (part, _) in held {
                reserve.give_back(part);
            }
            prop_assert_eq!((reserve.used(), reserve.largest()), (0, 74 * PAGE));
        }
    }
}
