//! Which of a unit's tickets are not confirmed, and for how long.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::completion::Ticket;
use crate::platform::Instant;

/// The tickets of one unit, which are confirmed in the order in which they were given out.
#[derive(Debug, Default)]
pub struct Tickets {
    /// Those that are not confirmed, and when each was given out.
    open: VecDeque<(Ticket, Instant)>,
    /// When the unit last did something that it was asked for.
    progressed: Instant,
    submitted: Ticket,
    confirmed: Ticket,
}

impl Tickets {
    /// The next one.
    #[inline]
    pub fn next(&self) -> Ticket {
        Ticket(self.submitted.0 + 1)
    }

    /// Gives the next one out. Unless it is confirmed at once, it is to be [waited for](Self::wait).
    #[inline]
    pub fn give_out(&mut self) -> Ticket {
        self.submitted = self.next();
        self.submitted
    }

    /// Takes note that the ticket that was given out last is waited for from now on.
    pub fn wait(&mut self, now: Instant) {
        self.open.push_back((self.submitted, now));
    }

    /// Takes note that the unit has confirmed all up to this one. Nobody looks at the clock if nothing is left to wait for.
    #[inline]
    pub fn confirm(&mut self, ticket: Ticket, now: impl FnOnce() -> Instant) {
        self.confirmed = ticket.max(self.confirmed);
        while self.open.front().is_some_and(|(ticket, _)| *ticket <= self.confirmed) {
            self.open.pop_front();
            if self.open.front().is_some_and(|(ticket, _)| *ticket > self.confirmed) {
                self.progressed = now();
                return;
            }
        }
    }

    /// Gives the [next](Self::next) one out, which the unit has confirmed already, and so all before it.
    #[inline]
    pub fn give_out_confirmed(&mut self, ticket: Ticket) {
        debug_assert_eq!(ticket, self.next());
        (self.submitted, self.confirmed) = (ticket, ticket);
        if !self.open.is_empty() {
            self.open.clear();
        }
    }

    /// Takes note that the unit has done something.
    pub fn progress(&mut self, now: Instant) {
        self.progressed = now;
    }

    /// The last that was given out.
    pub fn submitted(&self) -> Ticket {
        self.submitted
    }

    /// Every ticket up to this one is confirmed.
    #[inline]
    pub fn confirmed(&self) -> Ticket {
        self.confirmed
    }

    /// How many are not.
    #[inline]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Whether none has been given out.
    pub fn is_unused(&self) -> bool {
        self.submitted == Ticket(0)
    }

    /// For how long the unit has done nothing of what it is asked for. A long line is no stuck unit: time counts
    /// from the last thing it did.
    pub fn stuck_for(&self, now: Instant) -> Option<Duration> {
        self.open.front().map(|(_, since)| now.since(*since.max(&self.progressed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_from_the_last_thing_that_was_done() {
        let at = Instant::from_nanos;
        let mut tickets = Tickets::default();
        assert!(tickets.is_unused() && tickets.stuck_for(at(5)).is_none());
        for (since, ticket) in [(10, 1), (20, 2)] {
            assert_eq!(tickets.give_out(), Ticket(ticket));
            tickets.wait(at(since));
        }
        assert_eq!(tickets.stuck_for(at(50)), Some(Duration::from_nanos(40)));
        tickets.confirm(Ticket(1), || at(60));
        assert_eq!((tickets.confirmed(), tickets.open()), (Ticket(1), 1));
        assert_eq!(tickets.stuck_for(at(70)), Some(Duration::from_nanos(10)));
        tickets.progress(at(80));
        assert_eq!(tickets.stuck_for(at(80)), Some(Duration::ZERO));
        tickets.confirm(Ticket(2), || unreachable!("nothing is left"));
        tickets.give_out();
        tickets.wait(at(90));
        tickets.give_out_confirmed(Ticket(4));
        assert_eq!((tickets.stuck_for(at(99)), tickets.confirmed()), (None, Ticket(4)));
    }
}
