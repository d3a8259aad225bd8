//! The invalidation queue in memory (6.5.2): a [`Ring`].
//!
//! Completion is told by wait descriptors, which write a number into its status frame.

use dma_types::PhysAddr;

use super::descriptor::{Descriptor, WaitDescriptor};
use super::registers::{QueueAddress, QueueTail, RegisterFile};
use crate::completion::Ticket;
use crate::platform::{Platform, TableFrames};
use crate::unit::{Mark, Ring};

/// The queue of one unit.
#[derive(Debug)]
pub struct Queue(Ring);

impl Queue {
    /// An empty queue, or `None` if there are no frames for it.
    pub fn new(frames: &mut impl TableFrames) -> Option<Self> {
        Ring::new(frames).map(Self)
    }

    /// Gives its frames back. Only for a queue that no unit has been told of.
    pub fn free(self, frames: &mut impl TableFrames) {
        self.0.free(frames);
    }

    /// What the unit is told of where the queue is.
    pub fn address(&self) -> QueueAddress {
        QueueAddress::new().with_queue(self.0.requests())
    }

    /// Where wait descriptors are to write.
    #[inline]
    pub fn status_address(&self) -> PhysAddr {
        self.0.status_address()
    }

    /// Puts a request in the queue, two words of it; false if it is full.
    #[inline]
    pub fn push(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        request: [u64; 2],
    ) -> bool {
        if self.0.is_full() {
            self.make_room(platform, registers);
        }
        let mark: Mark =
            |number, place| Descriptor::from(WaitDescriptor::writing(number, place)).words();
        self.0.push(platform, request, mark)
    }

    #[cold]
    fn make_room(&mut self, platform: &mut impl Platform, registers: &RegisterFile) {
        // A unit that was told of nothing makes no room.
        self.announce(platform, registers);
        self.0.look(platform);
    }

    /// Tells the unit of what was put in the queue since.
    #[inline]
    pub fn announce(&mut self, platform: &mut impl Platform, registers: &RegisterFile) {
        if let Some(tail) = self.0.announcement() {
            registers.write(platform, QueueTail::at(tail));
        }
    }

    /// Puts a request in the queue with the wait for it behind it, and tells the unit. `false` if it is not so simple: then
    /// nothing is done.
    #[inline]
    pub fn ask(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        request: [u64; 2],
        ticket: Ticket,
    ) -> bool {
        let wait = WaitDescriptor::writing(ticket.0 as u32, self.status_address());
        let tail = self.0.push_two(platform, request, Descriptor::from(wait).words());
        if let Some(tail) = tail {
            registers.write(platform, QueueTail::at(tail));
        }
        tail.is_some()
    }

    /// The number that the last finished wait descriptor wrote.
    #[inline]
    pub fn status(&self, frames: &impl TableFrames) -> u32 {
        self.0.status(frames) as u32
    }

    /// The ticket that a status number stands for, of those whose fences the unit has been given, up to `issued`: the ones not
    /// yet confirmed are far fewer than 2^32, so its low half tells them apart. `None` if it stands for none of them.
    #[inline]
    pub fn ticket(status: u32, confirmed: Ticket, issued: Ticket) -> Option<Ticket> {
        let ahead = u64::from(status.wrapping_sub(confirmed.0 as u32));
        let ticket = Ticket(confirmed.0 + ahead);
        (ticket <= issued).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_number_finds_its_ticket_over_the_wrap() {
        let (confirmed, issued) = (Ticket(0xffff_fffe), Ticket(0x1_0000_0003));
        assert_eq!(Queue::ticket(0xffff_fffe, confirmed, issued), Some(confirmed));
        assert_eq!(Queue::ticket(1, confirmed, issued), Some(Ticket(0x1_0000_0001)));
    }

    #[test]
    fn r5_a_status_number_that_was_never_asked_for_confirms_nothing() {
        assert_eq!(Queue::ticket(9, Ticket(3), Ticket(5)), None);
        assert_eq!(Queue::ticket(2, Ticket(3), Ticket(5)), None);
    }
}
