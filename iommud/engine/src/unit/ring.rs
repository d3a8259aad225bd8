//! A ring in memory by which a unit is asked to do something: VT-d's invalidation queue, AMD-Vi's command buffer.
//!
//! One frame: 256 requests of 16 bytes, of which 255 can be there at once. A status frame beside it is where the
//! unit writes how far it is.
//!
//! Units also say by a register how far they have read. That is not believed: what is overwritten because of a wrong word is
//! never carried out, and what comes after it is confirmed all the same (rules R2 and R5). So every 64th request is a *mark*,
//! which has the unit write a number when it is through with what comes before; from then on there is room again.

use core::sync::atomic::{Ordering, fence};

use dma_types::PhysAddr;

use crate::platform::{TableFrame, TableFrames};

/// The last of so many places is a mark's. A place is a number of eight bits, for there are 256 in the ring's one frame.
const STRIDE: u8 = 64;

/// Which word of the status frame marks are written to. Confirmations are in the first.
const PASSED: usize = 1;

/// Makes the request that has a unit write a mark's number to an address, two words, the lower address first.
pub type Mark = fn(u32, PhysAddr) -> [u64; 2];

/// The ring of one unit.
#[derive(Debug)]
pub struct Ring {
    requests: PhysAddr,
    status: PhysAddr,
    /// Where the next request goes.
    tail: u8,
    /// Where the unit was when it was last looked at: what it has not read must not be overwritten. A mark that was passed, for
    /// the unit may not have said yet that it is.
    head: u8,
    /// The number of the last mark in the ring.
    marked: u32,
    /// That of the last which the unit is known to have passed.
    passed: u32,
    /// Whether the unit has been told of everything up to `tail`.
    announced: bool,
}

impl Ring {
    /// An empty ring, or `None` if there are no frames for it.
    pub fn new(frames: &mut impl TableFrames) -> Option<Self> {
        let requests = frames.alloc_frame()?;
        let Some(status) = frames.alloc_frame() else {
            frames.free_frame(requests);
            return None;
        };
        Some(Self { requests, status, tail: 0, head: 0, marked: 0, passed: 0, announced: true })
    }

    /// Gives its frames back. Only for a ring that no unit has been told of.
    pub fn free(self, frames: &mut impl TableFrames) {
        frames.free_frame(self.requests);
        frames.free_frame(self.status);
    }

    /// Starts anew: what is in it is gone. Only while the unit does not read it.
    pub fn restart(&mut self) {
        (self.tail, self.head, self.announced) = (0, 0, true);
        // The number of a mark that was in it is no mark's any more.
        self.passed = self.marked;
    }

    /// Where its requests are.
    pub fn requests(&self) -> PhysAddr {
        self.requests
    }

    /// Where the unit is to write how far it is.
    #[inline]
    pub fn status_address(&self) -> PhysAddr {
        self.status
    }

    /// What the unit wrote last.
    #[inline]
    pub fn status(&self, frames: &impl TableFrames) -> u64 {
        frames.table(self.status).map_or(0, |table| table[0].load(Ordering::Acquire))
    }

    /// Whether there is no room, as far as is known.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.tail.wrapping_add(1) == self.head
    }

    /// Looks which marks the unit has passed. A number that is none of those in the ring is none (rule R5).
    pub fn look(&mut self, frames: &impl TableFrames) {
        let Some(table) = frames.table(self.status) else { return };
        let written = table[PASSED].load(Ordering::Acquire) as u32;
        let behind = self.marked.wrapping_sub(written);
        if behind < self.marked.wrapping_sub(self.passed) {
            let last = (self.tail / STRIDE * STRIDE).wrapping_sub(1);
            self.head = last.wrapping_sub(STRIDE.wrapping_mul(behind as u8));
            self.passed = written;
        }
    }

    /// Puts a request in the ring, of two words, the lower address first, and a mark before it where it is time for one;
    /// false if it is full.
    #[inline]
    pub fn push(&mut self, frames: &impl TableFrames, words: [u64; 2], mark: Mark) -> bool {
        if self.is_full() {
            return false;
        }
        if self.tail % STRIDE == STRIDE - 1 && !self.put_mark(frames, mark) {
            return false;
        }
        // A full ring ends before a mark.
        self.put(frames, words)
    }

    #[cold]
    fn put_mark(&mut self, frames: &impl TableFrames, mark: Mark) -> bool {
        let number = self.marked.wrapping_add(1);
        let place = PhysAddr::new(self.status.get() + (PASSED * size_of::<u64>()) as u64);
        let is_put = self.put(frames, mark(number, place));
        if is_put {
            self.marked = number;
        }
        is_put
    }

    #[inline]
    fn put(&mut self, frames: &impl TableFrames, words: [u64; 2]) -> bool {
        let Some(table) = frames.table(self.requests) else { return false };
        store(table, self.tail, words);
        self.tail = self.tail.wrapping_add(1);
        self.announced = false;
        true
    }

    /// Puts two requests in the ring, one behind the other, and gives what the unit must be told of where the next one goes, as
    /// [`announcement`](Self::announcement) does. `None`, with nothing put, where it takes a look whether there is room, or a
    /// mark: that is seldom so.
    #[inline]
    pub fn push_two(
        &mut self,
        frames: &impl TableFrames,
        first: [u64; 2],
        second: [u64; 2],
    ) -> Option<u8> {
        // A full ring ends before a mark.
        if self.tail % STRIDE >= STRIDE - 3 {
            return None;
        }
        let table = frames.table(self.requests)?;
        store(table, self.tail, first);
        store(table, self.tail.wrapping_add(1), second);
        self.tail = self.tail.wrapping_add(2);
        self.announced = true;
        fence(Ordering::SeqCst);
        Some(self.tail)
    }

    /// What the unit must be told of where the next request goes, if it has not been. The requests, and the tables
    /// that they are about, are seen before that.
    #[inline]
    pub fn announcement(&mut self) -> Option<u8> {
        if self.announced {
            return None;
        }
        self.announced = true;
        fence(Ordering::SeqCst);
        Some(self.tail)
    }
}

/// Writes a request to a place of the ring.
#[inline]
fn store(table: &TableFrame, place: u8, words: [u64; 2]) {
    let word = usize::from(place) * 2;
    table[word].store(words[0], Ordering::Relaxed);
    table[word + 1].store(words[1], Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::fakes::FakeFrames;

    /// The word before those that are pushed.
    const MARK: u64 = 0xaaaa;

    fn mark(number: u32, place: PhysAddr) -> [u64; 2] {
        [MARK << 32 | u64::from(number), place.get()]
    }

    /// A ring with as many requests as go in.
    fn full(frames: &mut FakeFrames) -> Ring {
        let mut ring = Ring::new(frames).unwrap();
        let mut pushed = 0;
        while ring.push(frames, [pushed, !pushed], mark) {
            pushed += 1;
        }
        // And three marks.
        assert_eq!(pushed, 252);
        ring
    }

    fn write(frames: &FakeFrames, ring: &Ring, number: u64) {
        let table = frames.table(ring.status_address()).unwrap();
        table[1].store(number, Ordering::Release);
    }

    fn words(frames: &FakeFrames, ring: &Ring, slots: [usize; 4]) -> [u64; 4] {
        let table = frames.table(ring.requests()).unwrap();
        slots.map(|slot| table[2 * slot].load(Ordering::Relaxed))
    }

    #[test]
    fn what_the_unit_has_not_read_is_not_overwritten() {
        let mut frames = FakeFrames::new(2);
        let mut ring = full(&mut frames);
        assert_eq!((ring.announcement(), ring.announcement()), (Some(255), None));
        assert_eq!(words(&frames, &ring, [62, 63, 64, 254]), [62, MARK << 32 | 1, 63, 251]);
        let place = frames.table(ring.requests()).unwrap()[127].load(Ordering::Relaxed);
        assert_eq!(place, ring.status_address().get() + 8);
        ring.look(&frames);
        assert!(ring.is_full());
        // It is through with the first mark: up to there is room, and a fourth comes before.
        write(&frames, &ring, 1);
        ring.look(&frames);
        let pushed = (0..100).take_while(|n| ring.push(&frames, [1000 + n, 0], mark)).count();
        assert_eq!(pushed, 62);
        assert_eq!(
            words(&frames, &ring, [255, 0, 61, 63]),
            [MARK << 32 | 4, 1000, 1061, MARK << 32 | 1]
        );
        assert_eq!(ring.announcement(), Some(62));
        // And with all of them.
        write(&frames, &ring, 4);
        ring.look(&frames);
        let pushed = (0..400).take_while(|_| ring.push(&frames, [0, 0], mark)).count();
        assert_eq!(pushed, 192 - 3);
        assert_eq!(ring.announcement(), Some(254));
    }

    #[test]
    fn r2_r5_a_number_that_is_no_marks_makes_no_room() {
        let mut frames = FakeFrames::new(2);
        let mut ring = full(&mut frames);
        for number in [0, 4, 5, 256, u64::from(u32::MAX), 1 << 31] {
            write(&frames, &ring, number);
            ring.look(&frames);
            assert!(ring.is_full(), "{number}");
        }
        write(&frames, &ring, 2);
        ring.look(&frames);
        // Nor one that has come before.
        write(&frames, &ring, 1);
        ring.look(&frames);
        let pushed = (0..400).take_while(|_| ring.push(&frames, [0, 0], mark)).count();
        assert_eq!(pushed, 125);
    }

    #[test]
    fn r2_after_a_new_start_the_marks_of_before_make_no_room() {
        let mut frames = FakeFrames::new(2);
        let mut ring = full(&mut frames);
        ring.restart();
        assert!(!ring.is_full() && ring.announcement().is_none());
        while ring.push(&frames, [0, 0], mark) {}
        for number in 1..4 {
            write(&frames, &ring, number);
            ring.look(&frames);
            assert!(ring.is_full(), "{number}");
        }
        write(&frames, &ring, 4);
        ring.look(&frames);
        assert!(!ring.is_full());
        ring.free(&mut frames);
        assert_eq!(frames.live(), 0);
    }

    #[test]
    fn two_at_once_go_where_two_one_by_one_do_and_never_over_what_is_not_read() {
        let (mut frames, mut others) = (FakeFrames::new(2), FakeFrames::new(2));
        let (mut ring, mut other) =
            (Ring::new(&mut frames).unwrap(), Ring::new(&mut others).unwrap());
        let mut at_once = 0;
        for number in 0..1000 {
            let (first, second) = ([2 * number, 7], [2 * number + 1, 9]);
            if number % 120 == 119 {
                // The unit is through with every mark.
                for (ring, frames) in [(&mut ring, &frames), (&mut other, &others)] {
                    write(frames, ring, ring.marked.into());
                    ring.look(frames);
                }
            }
            let is_put = ring.push_two(&frames, first, second);
            at_once += u64::from(is_put.is_some());
            let both = [first, second].map(|words| other.push(&others, words, mark));
            match is_put {
                Some(tail) => assert_eq!((both, other.announcement()), ([true; 2], Some(tail))),
                None => {
                    let again = [first, second].map(|words| ring.push(&frames, words, mark));
                    assert_eq!(again, both);
                    assert_eq!(ring.announcement(), other.announcement());
                }
            }
            let all = |frames: &FakeFrames, ring: &Ring| -> Vec<u64> {
                let table = frames.table(ring.requests()).unwrap();
                table.iter().map(|word| word.load(Ordering::Relaxed)).collect()
            };
            let (words, expected) = (all(&frames, &ring), all(&others, &other));
            // Marks name where they are written to.
            let same = |(one, other): (&u64, &u64)| {
                one == other || *one == ring.status_address().get() + 8
            };
            assert!(words.iter().zip(&expected).all(same), "{number}");
        }
        assert!(at_once > 400, "{at_once}");
    }

    #[test]
    fn marks_are_counted_over_the_wrap() {
        let mut frames = FakeFrames::new(2);
        let mut ring = Ring::new(&mut frames).unwrap();
        (ring.marked, ring.passed) = (u32::MAX - 1, u32::MAX - 1);
        while ring.push(&frames, [0, 0], mark) {}
        assert_eq!(ring.marked, 1);
        for (number, room) in [(u32::MAX, 62), (0, 63), (1, 63)] {
            write(&frames, &ring, number.into());
            ring.look(&frames);
            let pushed = (0..400).take_while(|_| ring.push(&frames, [0, 0], mark)).count();
            assert_eq!(pushed, room, "{number}");
        }
    }
}
