//! The invalidation queue in memory (6.5.2).
//!
//! One frame: 256 descriptors of 16 bytes, of which 255 can be in use. Completion is told by wait
//! descriptors, which write a number into a status frame beside it.

use core::sync::atomic::Ordering;

use dma_types::PhysAddr;

use super::descriptor::Descriptor;
use super::registers::{QueueAddress, QueueHead, QueueTail, RegisterFile};
use crate::completion::Ticket;
use crate::platform::{Platform, TableFrames};

/// Descriptors in the queue's one frame.
const LENGTH: u16 = 256;

/// The queue of one unit.
#[derive(Debug)]
pub struct Queue {
    descriptors: PhysAddr,
    status: PhysAddr,
    /// Where the next descriptor goes.
    tail: u16,
    /// Where the unit was when it was last looked at: what it has not read must not be overwritten.
    head: u16,
    /// Whether the unit has been told of everything up to `tail`.
    announced: bool,
}

impl Queue {
    /// An empty queue, or `None` if there are no frames for it.
    pub fn new(frames: &mut impl TableFrames) -> Option<Self> {
        let descriptors = frames.alloc_frame()?;
        let Some(status) = frames.alloc_frame() else {
            frames.free_frame(descriptors);
            return None;
        };
        Some(Self { descriptors, status, tail: 0, head: 0, announced: true })
    }

    /// What the unit is told of where the queue is.
    pub fn address(&self) -> QueueAddress {
        QueueAddress::new().with_queue(self.descriptors)
    }

    /// Where wait descriptors are to write.
    pub fn status_address(&self) -> PhysAddr {
        self.status
    }

    /// Puts a descriptor in the queue; false if it is full.
    pub fn push(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        descriptor: Descriptor,
    ) -> bool {
        let next = (self.tail + 1) % LENGTH;
        if next == self.head {
            // Only now is the unit asked how far it is: that read is dear.
            let head = registers.read::<QueueHead>(platform).descriptor();
            if head >= LENGTH || next == head {
                return false;
            }
            self.head = head;
        }
        let Some(table) = platform.table(self.descriptors) else { return false };
        let word = usize::from(self.tail) * 2;
        for (place, value) in table[word..].iter().zip(descriptor.words()) {
            place.store(value, Ordering::Relaxed);
        }
        self.tail = next;
        self.announced = false;
        true
    }

    /// Tells the unit of what was put in the queue since.
    pub fn announce(&mut self, platform: &mut impl Platform, registers: &RegisterFile) {
        if self.announced {
            return;
        }
        self.announced = true;
        // The descriptors, and the tables that they are about, must be seen before the tail.
        core::sync::atomic::fence(Ordering::SeqCst);
        registers.write(platform, QueueTail::new().with_descriptor(self.tail));
    }

    /// The number that the last finished wait descriptor wrote.
    pub fn status(&self, frames: &impl TableFrames) -> u32 {
        frames.table(self.status).map_or(0, |table| table[0].load(Ordering::Acquire) as u32)
    }

    /// The ticket that a status number stands for: the tickets not yet confirmed are far fewer than
    /// 2^32, so its low half tells them apart. `None` if it stands for none of them.
    pub fn ticket(status: u32, confirmed: Ticket, submitted: Ticket) -> Option<Ticket> {
        let ahead = u64::from(status.wrapping_sub(confirmed.0 as u32));
        let ticket = Ticket(confirmed.0 + ahead);
        (ticket <= submitted).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_number_finds_its_ticket_over_the_wrap() {
        let (confirmed, submitted) = (Ticket(0xffff_fffe), Ticket(0x1_0000_0003));
        assert_eq!(Queue::ticket(0xffff_fffe, confirmed, submitted), Some(confirmed));
        assert_eq!(Queue::ticket(1, confirmed, submitted), Some(Ticket(0x1_0000_0001)));
    }

    #[test]
    fn r5_a_status_number_that_was_never_asked_for_confirms_nothing() {
        assert_eq!(Queue::ticket(9, Ticket(3), Ticket(5)), None);
        assert_eq!(Queue::ticket(2, Ticket(3), Ticket(5)), None);
    }
}
