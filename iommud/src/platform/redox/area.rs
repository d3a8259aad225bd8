//! Where memory lies: in this process, and in the memory object that outlives it.
//!
//! What is put into the object lies in this process in a part of its addresses that nothing else is put into: from there
//! the kernel chooses addresses only where they fill a hole (663e6641, `src/context/memory.rs`: `find_free_near` takes the
//! smallest that is large enough). So what a process before this one put there has its place in this one, too, as
//! long as it is mapped before holes come about.
//!
//! In the object it lies at the same address, in one of three regions, which tell what it is for.

use core::ops::Range;

/// Of a process's addresses, those that are kept for what is in the object.
pub const AREA: Range<usize> = 1 << 44..(1 << 45) - (1 << 40);

/// Where an object has what keeps it (`anchor`), and nothing else: in no region.
pub const ANCHOR: Range<usize> = 1 << 40..(1 << 40) + 2 * ANCHOR_PAGE;

/// How much of each other the two have.
pub const ANCHOR_PAGE: usize = 4096;

/// Where an object has what a process notes for its successor, which no hardware reaches: in no region either.
pub const NOTES: Range<usize> = ANCHOR.end..ANCHOR.end + (32 << 10);

/// Regions of an object are so far apart.
const REGION: usize = 1 << 45;

/// What memory in an object is for. Pieces of different regions are never side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// Tables: the chunk that has the arena's header in its first frame.
    Header = 0,
    /// Tables.
    Tables = 1,
    /// Pieces of one run each.
    Runs = 2,
}

impl Region {
    /// Where in an object something is that lies at `start` in the process.
    pub fn object_address(self, start: usize) -> usize {
        start + self as usize * REGION
    }

    /// The region, and the address in the process, of something in an object; `None` for what no process has put
    /// there.
    pub fn of(object_address: usize, bytes: usize) -> Option<(Self, usize)> {
        let start = object_address % REGION;
        let end = start.checked_add(bytes)?;
        let all = [Self::Header, Self::Tables, Self::Runs];
        let region = *all.get(object_address / REGION)?;
        (AREA.start <= start && end <= AREA.end).then_some((region, start))
    }
}

/// How many places are tried for one that is free.
const MOST_TRIES: usize = 256;

/// So much stays free between two pieces: the kernel takes plain memory that is side by side for one piece (663e6641,
/// `src/context/memory.rs`: `can_be_merged_if_adjacent`).
const GAP: usize = 4096;

/// Where the next piece is put: behind the last one, and when the area is used up at its start again.
#[derive(Debug)]
pub struct Cursor {
    next: usize,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { next: AREA.start }
    }
}

impl Cursor {
    /// Something is there.
    pub fn pass(&mut self, end: usize) {
        self.next = self.next.max(end + GAP).min(AREA.end);
    }

    /// Tries places for `bytes` bytes, whole pages, until one is free. `None` if none was, and for more than fits.
    pub fn find<T>(&mut self, bytes: usize, mut take: impl FnMut(usize) -> Option<T>) -> Option<T> {
        // What is in the way is at least a page, and mostly as large as what is looked for.
        (0..MOST_TRIES).find_map(|_| {
            let fits = |start: usize| start.checked_add(bytes).filter(|end| *end <= AREA.end);
            let (start, end) = match fits(self.next) {
                Some(end) => (self.next, end),
                None => (AREA.start, fits(AREA.start)?),
            };
            self.next = end + GAP;
            take(start)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn what_lies_in_an_object_tells_what_it_is_for_and_where_it_is_in_a_process() {
        let start = AREA.start + 5 * PAGE;
        let all = [Region::Header, Region::Tables, Region::Runs];
        for region in all {
            let there = region.object_address(start);
            assert_eq!(Region::of(there, PAGE), Some((region, start)));
            assert!(there + PAGE < 1 << 47, "the kernel's");
        }
        assert!(all.map(|region| region.object_address(start)).is_sorted());
        assert_eq!(Region::Header.object_address(start), start);
    }

    #[test]
    fn r5_what_no_process_put_there_is_in_no_region() {
        let last = usize::MAX - PAGE + 1;
        for address in [
            0,
            PAGE,
            ANCHOR.start,
            NOTES.start,
            AREA.start - PAGE,
            AREA.end,
            REGION + PAGE,
            REGION,
            last,
        ] {
            assert_eq!(Region::of(address, PAGE), None, "{address:#x}");
        }
        assert_eq!(Region::of(AREA.end - PAGE, 2 * PAGE), None);
        assert_eq!(Region::of(AREA.start, usize::MAX), None);
        assert_eq!(Region::of(3 * REGION + AREA.start, PAGE), None);
    }

    #[test]
    fn places_follow_one_another_past_what_is_taken_and_begin_again_at_the_end() {
        let mut cursor = Cursor::default();
        cursor.pass(AREA.start + 3 * PAGE);
        cursor.pass(AREA.start + PAGE);
        let mut tried = Vec::new();
        let found = cursor.find(2 * PAGE, |start| {
            tried.push(start);
            (tried.len() == 3).then_some(start)
        });
        // Never side by side.
        let first = AREA.start + 4 * PAGE;
        assert_eq!(tried, [first, first + 3 * PAGE, first + 6 * PAGE]);
        assert_eq!(found, Some(first + 6 * PAGE));
        cursor.pass(AREA.end - 2 * PAGE);
        assert_eq!(cursor.find(PAGE, Some), Some(AREA.end - PAGE));
        assert_eq!(cursor.find(PAGE, Some), Some(AREA.start));
        assert_eq!(cursor.find(AREA.len() + 1, Some), None);
        let mut tries = 0;
        let none: Option<()> = cursor.find(PAGE, |_| {
            tries += 1;
            None
        });
        assert_eq!((none, tries), (None, MOST_TRIES));
    }
}
