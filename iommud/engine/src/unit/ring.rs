//! A ring in memory by which a unit is asked to do something: VT-d's invalidation queue, AMD-Vi's command buffer.
//!
//! One frame: 256 requests of 16 bytes, of which 255 can be there at once. A status frame beside it is where the
//! unit writes how far it is.

use core::sync::atomic::{Ordering, fence};

use dma_types::PhysAddr;

use crate::platform::TableFrames;

/// Requests in the ring's one frame.
const LENGTH: u16 = 256;

/// The ring of one unit.
#[derive(Debug)]
pub struct Ring {
    requests: PhysAddr,
    status: PhysAddr,
    /// Where the next request goes.
    tail: u16,
    /// Where the unit was when it was last looked at: what it has not read must not be overwritten.
    head: u16,
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
        Some(Self { requests, status, tail: 0, head: 0, announced: true })
    }

    /// Gives its frames back. Only for a ring that no unit has been told of.
    pub fn free(self, frames: &mut impl TableFrames) {
        frames.free_frame(self.requests);
        frames.free_frame(self.status);
    }

    /// Starts anew: what is in it is gone. Only while the unit does not read it.
    pub fn restart(&mut self) {
        (self.tail, self.head, self.announced) = (0, 0, true);
    }

    /// Where its requests are.
    pub fn requests(&self) -> PhysAddr {
        self.requests
    }

    /// Where the unit is to write how far it is.
    pub fn status_address(&self) -> PhysAddr {
        self.status
    }

    /// What the unit wrote last.
    pub fn status(&self, frames: &impl TableFrames) -> u64 {
        frames.table(self.status).map_or(0, |table| table[0].load(Ordering::Acquire))
    }

    /// Whether there is no room, as far as is known: the unit is asked only then how far it is, for that is dear.
    pub fn is_full(&self) -> bool {
        (self.tail + 1) % LENGTH == self.head
    }

    /// Takes note of which request the unit reads next. A place beyond the end is none (rule R5).
    pub fn set_head(&mut self, head: u16) {
        if head < LENGTH {
            self.head = head;
        }
    }

    /// Puts a request in the ring, of two words, the lower address first; false if it is full.
    pub fn push(&mut self, frames: &impl TableFrames, words: [u64; 2]) -> bool {
        let Some(table) = frames.table(self.requests).filter(|_| !self.is_full()) else {
            return false;
        };
        let word = usize::from(self.tail) * 2;
        for (place, value) in table[word..].iter().zip(words) {
            place.store(value, Ordering::Relaxed);
        }
        self.tail = (self.tail + 1) % LENGTH;
        self.announced = false;
        true
    }

    /// What the unit must be told of where the next request goes, if it has not been. The requests, and the tables
    /// that they are about, are seen before that.
    pub fn announcement(&mut self) -> Option<u16> {
        if self.announced {
            return None;
        }
        self.announced = true;
        fence(Ordering::SeqCst);
        Some(self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::FakeFrames;

    #[test]
    fn what_the_unit_has_not_read_is_not_overwritten() {
        let mut frames = FakeFrames::new(2);
        let mut ring = Ring::new(&mut frames).unwrap();
        assert_eq!(ring.announcement(), None);
        assert!((0..255).all(|n| ring.push(&frames, [n, !n])));
        assert!(ring.is_full() && !ring.push(&frames, [0, 0]));
        assert_eq!((ring.announcement(), ring.announcement()), (Some(255), None));
        ring.set_head(2);
        assert!(ring.push(&frames, [1000, 0]) && ring.push(&frames, [1001, 0]));
        assert!(ring.is_full());
        assert_eq!(ring.announcement(), Some(1));
        let words = frames.table(ring.requests()).unwrap();
        let words = [0, 1, 2, 3, 510].map(|word| words[word].load(Ordering::Relaxed));
        assert_eq!(words, [1001, 0, 1, !1, 1000]);
    }

    #[test]
    fn r5_a_place_beyond_the_end_makes_no_room() {
        let mut frames = FakeFrames::new(2);
        let mut ring = Ring::new(&mut frames).unwrap();
        (0..255).for_each(|_| assert!(ring.push(&frames, [0, 0])));
        for head in [256, u16::MAX] {
            ring.set_head(head);
            assert!(ring.is_full());
        }
        ring.restart();
        assert!(!ring.is_full() && ring.announcement().is_none());
        ring.free(&mut frames);
        assert_eq!(frames.live(), 0);
    }
}
