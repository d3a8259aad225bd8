//! How a unit is made to forget, without waiting.
//!
//! What is asked goes through one line: the invalidations, and at the end of each submission a fence that stands
//! for its [`Ticket`]. The command buffer takes as much of the line as it has room for. The unit confirms a fence
//! by writing its ticket to memory, after everything before it is done, and so in order.
//!
//! # A buffer that stopped
//!
//! A unit stops at a command that it cannot read or make sense of, and says where in its event log. What came
//! before it is done or under way, and what came after is not; which of both any open ticket stands for is not
//! known for sure. So nothing of it is believed: the buffer is turned off, started anew and given one thing to
//! do, which is to forget everything. The fence after that stands for every ticket given out until then, and a
//! number that some earlier fence still writes confirms nothing (rule R2). If the buffer stops again before that
//! is confirmed, the unit is given up.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use dma_types::SourceId;

use super::command::Command;
use super::command_buffer::CommandBuffer;
use super::invalidation::Invalidation;
use super::registers::{Control, RegisterFile, Status};
use crate::completion::Ticket;
use crate::platform::{Instant, Platform, Registers, TableFrames};
use crate::unit::{DomainId, Tickets, UnitFailure};

/// One thing in the line. Of a range, the part that is still to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    Invalidate(Invalidation),
    Devices(RangeInclusive<u16>),
    Domains(RangeInclusive<u16>),
    Interrupts(RangeInclusive<u16>),
    Barrier,
    Fence(Ticket),
}

/// A unit's way of invalidating.
#[derive(Debug)]
pub struct Invalidator {
    buffer: CommandBuffer,
    /// How the control register is to be while the unit runs.
    control: Control,
    /// Whether the unit knows the command that forgets everything.
    has_all: bool,
    /// The requesters whose entries must be named to be forgotten, even when everything is.
    named: Vec<RangeInclusive<SourceId>>,
    line: VecDeque<Request>,
    tickets: Tickets,
    /// The last ticket whose fence is in the buffer or was. What is in the line yet nobody can have confirmed.
    issued: Ticket,
    /// The fence after the last new start. What is written of those before it counts for nothing.
    restarted: Ticket,
}

impl Invalidator {
    /// By commands in this buffer. `control` is how the unit is to run, and `has_all` is
    /// [`ExtendedFeatures::invalidate_all`](super::registers::ExtendedFeatures::invalidate_all).
    ///
    /// QEMU looks at the entries of some requesters only when told of each (with `dma-remap=on`): those are to
    /// be in `named`, for a unit that may be virtual.
    pub fn new(
        buffer: CommandBuffer,
        control: Control,
        has_all: bool,
        mut named: Vec<RangeInclusive<SourceId>>,
    ) -> Self {
        each_once(&mut named);
        Self {
            buffer,
            control,
            has_all,
            named,
            line: VecDeque::new(),
            tickets: Tickets::default(),
            issued: Ticket(0),
            restarted: Ticket(0),
        }
    }

    /// Has the requesters named, too, whose entries are among these.
    pub fn name(&mut self, invalidations: impl IntoIterator<Item = Invalidation>) {
        for invalidation in invalidations {
            if let Invalidation::Device(source) = invalidation {
                self.named.push(source..=source);
            }
        }
        each_once(&mut self.named);
    }

    /// Gives its frames back. Only if no unit has been told of them.
    pub fn free(self, frames: &mut impl TableFrames) {
        self.buffer.free(frames);
    }

    /// Tells a unit whose command buffer is off where ours is.
    pub fn install(&mut self, platform: &mut impl Registers, registers: &RegisterFile) {
        self.buffer.install(platform, registers);
    }

    /// Every ticket up to this one is confirmed.
    #[inline]
    pub fn confirmed(&self) -> Ticket {
        self.tickets.confirmed()
    }

    /// How many tickets are not confirmed.
    pub fn open(&self) -> usize {
        self.tickets.open()
    }

    /// Whether anything has been submitted.
    pub fn is_unused(&self) -> bool {
        self.tickets.is_unused()
    }

    /// For how long the unit has done nothing of what it is asked for; see [`Tickets::stuck_for`].
    pub fn stuck_for(&self, now: Instant) -> Option<Duration> {
        self.tickets.stuck_for(now)
    }

    /// Asks for what is a single command where nothing stands before it: the ticket, or no ticket if the unit has done it by now.
    /// `None`, with nothing done, where it takes more, as [`submit`](Self::submit) does.
    #[inline]
    pub fn ask(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        command: Command,
    ) -> Option<Option<Ticket>> {
        if !self.line.is_empty() {
            return None;
        }
        let ticket = self.tickets.next();
        if !self.buffer.ask(platform, registers, command, ticket) {
            return self.ask_with_a_look(platform, registers, command);
        }
        self.issued = ticket;
        // No fence of before the last new start has this number.
        if self.buffer.status(platform) == ticket {
            self.tickets.give_out_confirmed(ticket);
            return Some(None);
        }
        self.tickets.give_out();
        self.not_at_once(platform);
        Some(self.unconfirmed(ticket))
    }

    /// The same where it takes a look whether there is room, or a mark.
    #[cold]
    fn ask_with_a_look(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        command: Command,
    ) -> Option<Option<Ticket>> {
        if !self.buffer.push(platform, registers, command) {
            return None;
        }
        let ticket = self.fence(platform, registers);
        Some(self.unconfirmed(ticket))
    }

    /// A ticket, unless it is confirmed.
    fn unconfirmed(&self, ticket: Ticket) -> Option<Ticket> {
        (self.confirmed() < ticket).then_some(ticket)
    }

    /// Has the unit say when it is through with all that it was asked, for which the ticket stands.
    fn fence(&mut self, platform: &mut impl Platform, registers: &RegisterFile) -> Ticket {
        let ticket = self.tickets.give_out();
        self.put(platform, registers, Request::Fence(ticket));
        self.buffer.announce(platform, registers);
        self.not_at_once(platform);
        ticket
    }

    /// Waits for what was asked for last. What was asked before may be confirmed by now.
    #[inline(never)]
    fn not_at_once(&mut self, platform: &impl Platform) {
        self.collect(platform);
        if self.tickets.confirmed() < self.tickets.submitted() {
            self.tickets.wait(platform.now());
        }
    }

    /// Asks for these invalidations, and gives the ticket that stands for all of them. Often it is confirmed
    /// when this returns.
    ///
    /// What is forgotten of translations by then was found by entries that are forgotten already: an
    /// invalidation of a requester's entry is done before what comes after it begins.
    pub fn submit(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        invalidations: impl IntoIterator<Item = Invalidation>,
    ) -> Ticket {
        let mut entries_before = false;
        for invalidation in invalidations {
            let of_entry = matches!(invalidation, Invalidation::Device(_));
            if entries_before && !of_entry {
                self.put(platform, registers, Request::Barrier);
            }
            entries_before = of_entry;
            self.put(platform, registers, Request::Invalidate(invalidation));
        }
        self.fence(platform, registers)
    }

    /// Asks the unit to forget everything, in whatever way it can.
    pub fn submit_everything(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
    ) -> Ticket {
        let now = platform.now();
        let ticket = self.tickets.give_out();
        self.tickets.wait(now);
        self.line.extend(everything(self.has_all, &self.named));
        self.line.push_back(Request::Fence(ticket));
        self.advance(platform, registers, now);
        ticket
    }

    /// Goes on with the line, and takes note of what is confirmed.
    ///
    /// # Errors
    ///
    /// [`UnitFailure::Vanished`], and [`UnitFailure::QueueStopped`] if the buffer stopped again while it was to
    /// forget everything. After either, nothing that is open will ever be confirmed.
    pub fn poll(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
    ) -> Result<(), UnitFailure> {
        if self.open() == 0 {
            return Ok(());
        }
        let now = platform.now();
        self.advance(platform, registers, now);
        if self.open() == 0 {
            return Ok(());
        }
        let status: Status = registers.read(platform);
        if status == Status::GONE {
            return Err(UnitFailure::Vanished);
        }
        if !status.command_buffer_runs() {
            // It may have confirmed something and stopped since it was looked at.
            self.collect(platform);
            if self.restarted > self.confirmed() {
                return Err(UnitFailure::QueueStopped);
            }
            self.restart(platform, registers);
        }
        Ok(())
    }

    /// Starts a buffer that has stopped anew, with one thing to do: to forget everything. The rest of the control
    /// register is written as it is to be, whatever it reads (rules R1 and R5).
    fn restart(&mut self, platform: &mut impl Platform, registers: &RegisterFile) {
        registers.write(platform, self.control.with_command_buffer(false));
        self.buffer.install(platform, registers);
        registers.write(platform, self.control);
        self.line.clear();
        self.restarted = Ticket(self.tickets.submitted().0 + 1);
        self.submit_everything(platform, registers);
    }

    /// Gives the unit as much of the line as it takes.
    fn advance(&mut self, platform: &mut impl Platform, registers: &RegisterFile, now: Instant) {
        while let Some(request) = self.line.pop_front() {
            let mut rest = request.clone();
            let done = self.issue(platform, registers, &mut rest);
            if done || rest != request {
                // There was room, and so the unit has done something.
                self.tickets.progress(now);
            }
            if !done {
                self.line.push_front(rest);
                break;
            }
        }
        self.buffer.announce(platform, registers);
        self.collect(platform);
    }

    /// Does this at once if nothing is before it and there is room, else puts it in the line.
    fn put(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        mut request: Request,
    ) {
        if !self.line.is_empty() || !self.issue(platform, registers, &mut request) {
            self.line.push_back(request);
        }
    }

    /// Gives the unit what stands for a request; false if there is no room for all of it.
    fn issue(
        &mut self,
        platform: &mut impl Platform,
        registers: &RegisterFile,
        request: &mut Request,
    ) -> bool {
        let mut push = |command| self.buffer.push(platform, registers, command);
        let mut forget = |invalidation| push(Command::invalidating(invalidation));
        match request {
            Request::Invalidate(invalidation) => forget(*invalidation),
            Request::Devices(sources) => {
                each(sources, |source| forget(Invalidation::Device(SourceId::new(source))))
            }
            Request::Domains(domains) => {
                each(domains, |domain| forget(Invalidation::Domain(DomainId::new(domain))))
            }
            Request::Interrupts(sources) => {
                each(sources, |source| forget(Invalidation::Interrupts(SourceId::new(source))))
            }
            Request::Barrier => push(Command::barrier()),
            Request::Fence(ticket) => {
                let store = Command::storing(ticket.0, self.buffer.status_address());
                let has_room = self.buffer.push(platform, registers, store);
                if has_room {
                    self.issued = *ticket;
                }
                has_room
            }
        }
    }

    /// Reads how far the unit is. What was never asked for confirms nothing (rule R5).
    fn collect(&mut self, platform: &impl Platform) {
        let ticket = self.buffer.status(platform);
        if ticket <= self.issued && ticket >= self.restarted {
            self.tickets.confirm(ticket, || platform.now());
        }
    }
}

/// Has no two ranges overlap: firmware's table has room to name each requester thousands of times (rule R5).
fn each_once(ranges: &mut Vec<RangeInclusive<SourceId>>) {
    ranges.sort_unstable_by_key(|range| *range.start());
    ranges.dedup_by(|next, range| {
        let overlap = next.start() <= range.end();
        if overlap {
            *range = *range.start()..=*range.end().max(next.end());
        }
        overlap
    });
}

/// What makes a unit forget everything.
fn everything(has_all: bool, named: &[RangeInclusive<SourceId>]) -> impl Iterator<Item = Request> {
    const EVERY: RangeInclusive<u16> = 0..=u16::MAX;
    let (all, each) = if has_all {
        (Some(Request::Invalidate(Invalidation::All)), None)
    } else {
        let each = [
            Request::Devices(EVERY),
            Request::Barrier,
            Request::Domains(EVERY),
            Request::Interrupts(EVERY),
        ];
        (None, Some(each))
    };
    let named = if has_all { named } else { &[] };
    let named = named.iter().map(|range| Request::Devices(range.start().get()..=range.end().get()));
    all.into_iter().chain(named).chain(each.into_iter().flatten())
}

/// Does something for each of a range. False if that ends early: then what is done is taken out of it.
fn each(range: &mut RangeInclusive<u16>, mut act: impl FnMut(u16) -> bool) -> bool {
    let undone = range.clone().find(|value| !act(*value));
    if let Some(first) = undone {
        *range = first..=*range.end();
    }
    undone.is_none()
}

#[cfg(test)]
mod tests;
